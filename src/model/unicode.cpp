#include "model/unicode.h"

#include <utf8proc.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "core/error.h"

namespace voronoi::model {
namespace {

unsigned char byte_at(std::string_view text, std::size_t at) { return static_cast<unsigned char>(text[at]); }

/// First byte at or after `at` that is not ASCII.
std::size_t skip_ascii(std::string_view text, std::size_t at) {
  for (; at + 8 <= text.size(); at += 8) {
    std::uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    if ((word & 0x8080808080808080ULL) != 0) break;
  }
  while (at < text.size() && byte_at(text, at) < 0x80) ++at;
  return at;
}

std::size_t first_invalid(std::string_view text) {
  for (std::size_t at = skip_ascii(text, 0); at < text.size(); at = skip_ascii(text, at)) {
    bool valid;
    const std::size_t length = core::scan_utf8(text, at, valid);
    if (!valid) return at;
    at += length;
  }
  return text.size();
}

void append_normalized(std::string_view text, UnicodeForm form, std::string& out) {
  const bool composed = form == UnicodeForm::nfc || form == UnicodeForm::nfkc;
  const bool compatible = form == UnicodeForm::nfkc || form == UnicodeForm::nfkd;
  const auto options = static_cast<utf8proc_option_t>(
      UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compatible ? UTF8PROC_COMPAT : 0));
  utf8proc_uint8_t* result = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &result, options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
  if (size < 0) throw core::InternalError(std::string("utf8proc: ") + utf8proc_errmsg(size));
  out.append(reinterpret_cast<const char*>(result), static_cast<std::size_t>(size));
}

}  // namespace

char32_t utf8_code_point(std::string_view text, std::size_t at, std::size_t length) {
  const char32_t lead = byte_at(text, at);
  if (length == 1) return lead;
  char32_t value = lead & (0xFFU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) value = (value << 6) | (byte_at(text, at + i) & 0x3FU);
  return value;
}

std::string utf8_encode(char32_t code_point) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  return {reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size)};
}

bool is_valid_utf8(std::string_view text) { return first_invalid(text) == text.size(); }

std::string_view valid_utf8(std::string_view text, std::string& storage) {
  std::size_t at = first_invalid(text);
  if (at == text.size()) return text;
  storage.assign(text.substr(0, at));
  while (at < text.size()) {
    bool valid;
    const std::size_t length = core::scan_utf8(text, at, valid);
    storage.append(valid ? text.substr(at, length) : std::string_view("\xEF\xBF\xBD"));
    at += length;
  }
  return storage;
}

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0;;) {
    const std::size_t found = text.find(pattern, at);
    out.append(text.substr(at, found - at));
    if (found == std::string_view::npos) return out;
    out.append(content);
    at = found + pattern.size();
  }
}

std::string normalized(std::string_view text, UnicodeForm form) {
  // In form C no character below U+0300 changes or composes with its predecessor, in the others none of ASCII; a line
  // feed composes with nothing. So only lines with something above need work.
  const unsigned char least = form == UnicodeForm::nfc ? 0xCC : 0x80;
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
    const std::string_view line = text.substr(0, end);
    bool inert = true;
    for (std::size_t i = skip_ascii(line, 0); i < line.size() && inert; ++i) inert = byte_at(line, i) < least;
    if (inert)
      out.append(line);
    else
      append_normalized(line, form, out);
    text.remove_prefix(end);
  }
  return out;
}

std::string capitalised(std::string_view text) {
  std::string out;
  for (std::size_t at = 0, length = 0; at < text.size(); at += length) {
    length = utf8_length(text, at);
    VORONOI_REQUIRE(length > 0, "text that is UTF-8");
    const auto c = static_cast<utf8proc_int32_t>(utf8_code_point(text, at, length));
    out += utf8_encode(static_cast<char32_t>(at == 0 ? utf8proc_totitle(c) : utf8proc_tolower(c)));
  }
  return out;
}

bool is_word_character(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return c == 0x200C || c == 0x200D;  // joiners
  }
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

}  // namespace voronoi::model
