#include "store/hdf5_handle.h"

#include <bit>
#include <cstdint>
#include <cstring>

namespace voronoi::store::hdf5 {
namespace {

std::mutex& library_mutex() {
  static std::mutex mutex;
  return mutex;
}

herr_t keep_innermost(unsigned position, const H5E_error2_t* error, void* text) {
  if (position == 0 && error->desc != nullptr) *static_cast<std::string*>(text) = error->desc;
  return 0;
}

std::string describe(const char* call) {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &text);
  H5Eclear2(H5E_DEFAULT);
  return std::string(call) + ": " + (text.empty() ? "failed" : text);
}

/// Bob Jenkins' lookup3 of little-endian words, the checksum of HDF5's metadata. The length must be a multiple of 4, not 0.
std::uint32_t lookup3(std::span<const std::byte> bytes) {
  const auto word = [&](std::size_t i) {
    std::uint32_t value = 0;
    for (std::size_t k = 4; k-- > 0;) value = value << 8 | std::to_integer<std::uint32_t>(bytes[4 * i + k]);
    return value;
  };
  std::size_t left = bytes.size() / 4, at = 0;
  std::uint32_t a = 0xDEADBEEFU + static_cast<std::uint32_t>(bytes.size()), b = a, c = a;
  for (; left > 3; left -= 3, at += 3) {
    a += word(at), b += word(at + 1), c += word(at + 2);
    a = (a - c) ^ std::rotl(c, 4), c += b;
    b = (b - a) ^ std::rotl(a, 6), a += c;
    c = (c - b) ^ std::rotl(b, 8), b += a;
    a = (a - c) ^ std::rotl(c, 16), c += b;
    b = (b - a) ^ std::rotl(a, 19), a += c;
    c = (c - b) ^ std::rotl(b, 4), b += a;
  }
  a += word(at);
  if (left > 1) b += word(at + 1);
  if (left > 2) c += word(at + 2);
  c = (c ^ b) - std::rotl(b, 14);
  a = (a ^ c) - std::rotl(c, 11);
  b = (b ^ a) - std::rotl(a, 25);
  c = (c ^ b) - std::rotl(b, 16);
  a = (a ^ c) - std::rotl(c, 4);
  b = (b ^ a) - std::rotl(a, 14);
  return (c ^ b) - std::rotl(b, 24);
}

}  // namespace

void repair_superblock(std::span<std::byte> image) {
  // HDF5 file format 2.0, section II.A: version at byte 8, checksum at byte 44 over the bytes before it, with 8-byte addresses.
  constexpr std::size_t kVersion = 8, kAddressSize = 9, kChecksum = 44;
  if (image.size() < kChecksum + 4 || image[kVersion] != std::byte{2} || image[kAddressSize] != std::byte{8}) return;
  const std::uint32_t sum = lookup3(image.first(kChecksum));
  for (std::size_t k = 0; k < 4; ++k) image[kChecksum + k] = static_cast<std::byte>(sum >> (8 * k) & 0xFFU);
}

Failure::Failure(const char* call) : std::runtime_error(describe(call)) {}

Session::Session() : lock_(library_mutex()) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  H5Eclear2(H5E_DEFAULT);
}

}  // namespace voronoi::store::hdf5
