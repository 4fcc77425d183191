// Checksums of a shard's file put right after a mutation, so that what they protect is read: those of HDF5's superblock
// and object headers
// ("HDF5 File Format Specification Version 2.0"), and the digest in the user block. Written apart from the reader that
// it tests.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/hash.h"

namespace voronoi::fuzz {

class Hdf5Seal {
 public:
  /// `file`: user block and image.
  explicit Hdf5Seal(std::string& file) : file_(file) {}

  void seal() {
    if (file_.size() < kUserBlock + kSuperblock + 4) return;
    put(kUserBlock + kSuperblock, lookup3(file_.data() + kUserBlock, kSuperblock));
    header(number(kUserBlock + 36, 8), 0);
    const std::string digest = core::sha256(std::string_view(file_).substr(kUserBlock));
    std::string block = "voronoi shard 1\nsha256 " + digest + "\nbytes " + std::to_string(file_.size()) + "\n";
    block.resize(kUserBlock, '\0');
    file_.replace(0, kUserBlock, block);
  }

 private:
  static constexpr std::size_t kUserBlock = 512, kSuperblock = 44;
  static constexpr int kMostObjects = 64;

  /// Bob Jenkins' lookup3, byte by byte into three words.
  static std::uint32_t lookup3(const char* bytes, std::size_t n) {
    std::uint32_t a = 0xDEADBEEFU + static_cast<std::uint32_t>(n), b = a, c = a;
    const auto word = [&](std::size_t at) {
      std::uint32_t value = 0;
      for (std::size_t k = 0; k < 4 && at + k < n; ++k)
        value |= static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[at + k])) << (8 * k);
      return value;
    };
    std::size_t at = 0;
    for (; n - at > 12; at += 12) {
      a += word(at);
      b += word(at + 4);
      c += word(at + 8);
      a = (a - c) ^ std::rotl(c, 4);
      c += b;
      b = (b - a) ^ std::rotl(a, 6);
      a += c;
      c = (c - b) ^ std::rotl(b, 8);
      b += a;
      a = (a - c) ^ std::rotl(c, 16);
      c += b;
      b = (b - a) ^ std::rotl(a, 19);
      a += c;
      c = (c - b) ^ std::rotl(b, 4);
      b += a;
    }
    a += word(at);
    b += word(at + 4);
    c += word(at + 8);
    c = (c ^ b) - std::rotl(b, 14);
    a = (a ^ c) - std::rotl(c, 11);
    b = (b ^ a) - std::rotl(a, 25);
    c = (c ^ b) - std::rotl(b, 16);
    a = (a ^ c) - std::rotl(c, 4);
    b = (b ^ a) - std::rotl(a, 14);
    return (c ^ b) - std::rotl(b, 24);
  }

  bool inside(std::uint64_t at, std::uint64_t n) const { return at <= file_.size() && n <= file_.size() - at; }
  std::uint64_t number(std::uint64_t at, std::size_t n) const {
    std::uint64_t value = 0;
    if (!inside(at, n)) return ~std::uint64_t{0};
    for (std::size_t k = n; k-- > 0;) value = value << 8 | static_cast<unsigned char>(file_[at + k]);
    return value;
  }
  void put(std::uint64_t at, std::uint32_t value) {
    for (std::size_t k = 0; k < 4; ++k) file_[at + k] = static_cast<char>(value >> (8 * k) & 0xFFU);
  }

  /// A version 2 object header at an address that counts from the image, and all that it leads to.
  void header(std::uint64_t address, int depth) {
    const std::uint64_t start = kUserBlock + address;
    if (depth > 1 || ++objects_ > kMostObjects || address > file_.size() || !inside(start, 6)) return;
    const auto flags = static_cast<unsigned>(number(start + 5, 1));
    const std::uint64_t before = start + 6 + ((flags & 0x20U) != 0 ? 16 : 0) + ((flags & 0x10U) != 0 ? 4 : 0);
    const std::size_t width = std::size_t{1} << (flags & 3U);
    const std::uint64_t size = number(before, width), body = before + width;
    if (!inside(body, size) || !inside(body + size, 4)) return;
    messages(body, body + size, (flags & 4U) != 0, depth);
    put(body + size, lookup3(file_.data() + start, body + size - start));
  }

  void messages(std::uint64_t at, std::uint64_t end, bool with_order, int depth) {
    const std::uint64_t prefix = with_order ? 6 : 4;
    while (end - at >= prefix) {
      const std::uint64_t type = number(at, 1), size = number(at + 1, 2), body = at + prefix;
      if (size > end - body) return;
      if (type == 0x10 && size >= 16) {
        const std::uint64_t chunk = kUserBlock + number(body, 8), length = number(body + 8, 8);
        if (++objects_ <= kMostObjects && length >= 8 && inside(chunk, length)) {
          messages(chunk + 4, chunk + length - 4, with_order, depth);
          put(chunk + length - 4, lookup3(file_.data() + chunk, length - 4));
        }
      }
      if (type == 0x06 && size >= 8) header(number(body + size - 8, 8), depth + 1);  // a hard link ends in its address
      at = body + size;
    }
  }

  std::string& file_;
  int objects_ = 0;
};

}  // namespace voronoi::fuzz
