#include "core/printable.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/utf8.h"

namespace voronoi::core {

std::string printable(std::string_view text, std::size_t max_bytes) {
  const bool cut = text.size() > max_bytes;
  text = text.substr(0, max_bytes);
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    // Most of a message needs no second look.
    const auto plain = static_cast<std::size_t>(
        std::find_if(text.begin(), text.end(), [](char c) { return c < 0x20 || c >= 0x7F; }) - text.begin());
    out += text.substr(0, plain);
    text.remove_prefix(plain);
    if (text.empty()) break;
    const auto byte = static_cast<unsigned char>(text.front());
    const std::size_t length = utf8_length(text, 0);
    if (length == 0 || byte < 0x20 || byte == 0x7F)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return cut ? out + "..." : out;
}

std::string quote_text(std::string_view text) {
  constexpr std::size_t kMaxBytes = 120;
  return '"' + printable(text, kMaxBytes) + '"';
}

}  // namespace voronoi::core
