// Files that gzip or Zstandard has packed, told by their first bytes.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace voronoi::model {

enum class TextPacking { none, gzip, zstd };

/// By the first bytes of a file; its name is not looked at.
TextPacking packing_of(std::string_view bytes);
/// Of a file; none where it cannot be read.
TextPacking packing_of_file(const std::filesystem::path& path);

/// A packed file may unpack to so many times its size, and to so much in any case: text packs to a third or a tenth.
/// More is a file that was made to fill the memory.
inline constexpr std::size_t kMostUnpackedRatio = 100, kAlwaysUnpackedBytes = std::size_t{1} << 26;

/// The content of a packed file, whose bytes `packed` are; all members or frames, one behind the other. Throws
/// FormatError naming `file` for a stream that is cut short or damaged (checksums included), for what stands behind it,
/// and for one that unpacks to more than the bound above.
std::string unpack(std::string_view packed, const std::string& file);

}  // namespace voronoi::model
