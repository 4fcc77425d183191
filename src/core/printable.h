// Texts from files as people are shown them: a hostile file must neither steer a terminal nor flood a log.
#pragma once

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>

namespace voronoi::core {

/// Control characters and invalid UTF-8 as \xHH; what is longer than max_bytes is cut and ends in "...".
std::string printable(std::string_view text, std::size_t max_bytes = std::numeric_limits<std::size_t>::max());

/// A text from a file as messages show it: printable, in double quotes, cut after 120 bytes.
std::string quote_text(std::string_view text);

}  // namespace voronoi::core
