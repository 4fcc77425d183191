// Characters in UTF-8 texts.
#pragma once

#include <cstddef>
#include <string_view>

namespace voronoi::core {

/// Bytes of the well-formed character (`valid`) or of the maximal ill-formed part at text[at], at < text.size() (The
/// Unicode Standard, 3.9 and table 3-7).
std::size_t scan_utf8(std::string_view text, std::size_t at, bool& valid);

/// Bytes of the well-formed character at text[at], or 0 when there is none.
std::size_t utf8_length(std::string_view text, std::size_t at);

}  // namespace voronoi::core
