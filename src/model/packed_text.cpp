#include "model/packed_text.h"

#include <fmt/format.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <span>

#include "core/error.h"

namespace voronoi::model {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kGzip = "\x1F\x8B"sv, kZstd = "\x28\xB5\x2F\xFD"sv;
/// What follows the first byte, 0x50 to 0x5F, of a frame without content, which some programs write first.
constexpr std::string_view kZstdSkipped = "\x2A\x4D\x18"sv;
constexpr std::size_t kMagicBytes = 4;
constexpr std::size_t kLeastRoom = std::size_t{1} << 14, kMostPiece = std::size_t{1} << 30;
constexpr std::size_t kUsualRatio = 4;  ///< of a text to what it is packed in

[[noreturn]] void fail_cut(const std::string& file, std::size_t size) {
  throw core::FormatError(file, size, "ends in the middle of its packed text; get the whole file");
}

[[noreturn]] void fail_damaged(const std::string& file, std::size_t offset, std::string_view what) {
  throw core::FormatError(file, offset, fmt::format("does not unpack: {}; get the file anew", what));
}

/// What was unpacked so far, with room behind it as long as the bound allows.
class Unpacked {
 public:
  Unpacked(std::size_t packed_bytes, const std::string& file)
      : least_(std::max(kLeastRoom, packed_bytes * kUsualRatio)),
        most_(packed_bytes * kMostUnpackedRatio + kAlwaysUnpackedBytes),
        file_(file) {}

  /// At least one byte: beyond the bound, so that what ends there is told from what goes on.
  std::span<char> room() {
    if (used_ == bytes_.size()) bytes_.resize(std::min(std::max(least_, used_ + used_ / 2), most_ + 1));
    return std::span(bytes_).subspan(used_);
  }
  /// So much of the room was filled.
  void take(std::size_t n) {
    used_ += n;
    if (used_ > most_)
      throw core::FormatError(file_,
                              fmt::format("unpacks to more than {} bytes ({} times its size, and {} besides), which no "
                                          "text does; if this one should, unpack it and give the unpacked file",
                                          most_, kMostUnpackedRatio, kAlwaysUnpackedBytes));
  }
  std::string finish() {
    bytes_.resize(used_);
    return std::move(bytes_);
  }

 private:
  std::size_t least_, most_;  ///< bytes at first, and in all
  const std::string& file_;
  std::string bytes_;
  std::size_t used_ = 0;
};

std::string unpack_gzip(std::string_view packed, const std::string& file) {
  constexpr int kGzipWindow = 15 + 16;  // the largest window, and gzip's header and checksum
  z_stream stream{};
  if (::inflateInit2(&stream, kGzipWindow) != Z_OK) throw std::bad_alloc();
  const std::unique_ptr<z_stream, decltype(&::inflateEnd)> owner(&stream, &::inflateEnd);
  Unpacked unpacked(packed.size(), file);
  for (std::size_t at = 0;;) {
    // zlib counts in 32 bits, and takes its input as not const.
    const std::string_view input = packed.substr(at, kMostPiece);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input.data()));
    stream.avail_in = static_cast<uInt>(input.size());
    const std::span<char> room = unpacked.room();
    const auto output = static_cast<uInt>(std::min(room.size(), kMostPiece));
    stream.next_out = reinterpret_cast<Bytef*>(room.data());
    stream.avail_out = output;
    const int result = ::inflate(&stream, Z_NO_FLUSH);
    at += input.size() - stream.avail_in;
    unpacked.take(output - stream.avail_out);
    if (result == Z_BUF_ERROR) fail_cut(file, at);  // there was room, so the input is at its end
    if (result == Z_MEM_ERROR) throw std::bad_alloc();
    if (result == Z_STREAM_END) {
      const std::string_view rest = packed.substr(at);
      if (rest.find_first_not_of('\0') == std::string_view::npos)
        return unpacked.finish();  // padded by tapes and disks
      if (!rest.starts_with(kGzip)) fail_damaged(file, at, "something else stands behind its end");
      ::inflateReset(&stream);
    } else if (result != Z_OK) {
      fail_damaged(file, at, stream.msg != nullptr ? stream.msg : "it is not what gzip writes");
    }
  }
}

std::string unpack_zstd(std::string_view packed, const std::string& file) {
  const std::unique_ptr<ZSTD_DCtx, decltype(&::ZSTD_freeDCtx)> context(::ZSTD_createDCtx(), &::ZSTD_freeDCtx);
  if (!context) throw std::bad_alloc();
  Unpacked unpacked(packed.size(), file);
  ZSTD_inBuffer input{packed.data(), packed.size(), 0};
  while (true) {
    const std::span<char> room = unpacked.room();
    ZSTD_outBuffer output{room.data(), room.size(), 0};
    const std::size_t left = ::ZSTD_decompressStream(context.get(), &output, &input);  // 0: a frame is at its end
    if (::ZSTD_isError(left) != 0) fail_damaged(file, input.pos, ::ZSTD_getErrorName(left));
    unpacked.take(output.pos);
    if (input.pos < input.size) continue;
    if (left == 0) return unpacked.finish();
    if (output.pos < output.size) fail_cut(file, input.pos);
  }
}

}  // namespace

TextPacking packing_of(std::string_view bytes) {
  if (bytes.starts_with(kGzip)) return TextPacking::gzip;
  const bool skipped = !bytes.empty() && (bytes.front() & 0xF0) == 0x50 && bytes.substr(1).starts_with(kZstdSkipped);
  return skipped || bytes.starts_with(kZstd) ? TextPacking::zstd : TextPacking::none;
}

TextPacking packing_of_file(const std::filesystem::path& path) {
  std::string first(kMagicBytes, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(first.data(), static_cast<std::streamsize>(first.size()));
  return file ? packing_of(first) : TextPacking::none;
}

std::string unpack(std::string_view packed, const std::string& file) {
  switch (packing_of(packed)) {
    case TextPacking::gzip:
      return unpack_gzip(packed, file);
    case TextPacking::zstd:
      return unpack_zstd(packed, file);
    case TextPacking::none:
      break;
  }
  throw core::InternalError("a file that is not packed is unpacked: " + file);
}

}  // namespace voronoi::model
