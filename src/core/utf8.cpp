#include "core/utf8.h"

namespace voronoi::core {

std::size_t scan_utf8(std::string_view text, std::size_t at, bool& valid) {
  const unsigned char lead = static_cast<unsigned char>(text[at]);
  valid = true;
  if (lead < 0x80) return 1;
  valid = false;
  if (lead < 0xC2 || lead > 0xF4) return 1;
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned char low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (std::size_t i = 1; i < length; ++i) {
    if (at + i >= text.size()) return i;
    const unsigned char next = static_cast<unsigned char>(text[at + i]);
    if (next < low || next > high) return i;
    low = 0x80;
    high = 0xBF;
  }
  valid = true;
  return length;
}

std::size_t utf8_length(std::string_view text, std::size_t at) {
  bool valid;
  const std::size_t length = scan_utf8(text, at, valid);
  return valid ? length : 0;
}

}  // namespace voronoi::core
