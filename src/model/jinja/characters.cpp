#include "model/jinja/characters.h"

#include <utf8proc.h>

#include "model/unicode.h"

namespace voronoi::model::jinja {
namespace {

template <class Change>
std::string changed(std::string_view text, const Change& change) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = character_size(text, at);
    if (size == 1 && static_cast<unsigned char>(text[at]) >= 0x80)
      out += text[at];
    else
      out += utf8_encode(change(character_at(text, at)));
    at += size;
  }
  return out;
}

bool contains(std::string_view set, std::string_view character) {
  for (std::size_t at = 0; at < set.size(); at += character_size(set, at))
    if (set.substr(at, character_size(set, at)) == character) return true;
  return false;
}

std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && text.size() - at < 4 && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80) --at;
  return at + character_size(text, at) == text.size() ? at : text.size() - 1;
}

}  // namespace

std::size_t character_size(std::string_view text, std::size_t at) {
  const std::size_t length = utf8_length(text, at);
  return length == 0 ? 1 : length;
}

char32_t character_at(std::string_view text, std::size_t at) {
  const std::size_t length = utf8_length(text, at);
  return length == 0 ? static_cast<unsigned char>(text[at]) : utf8_code_point(text, at, length);
}

std::int64_t count_characters(std::string_view text) {
  std::int64_t count = 0;
  for (std::size_t at = 0; at < text.size(); at += character_size(text, at)) ++count;
  return count;
}

std::size_t byte_of(std::string_view text, std::int64_t n) {
  std::size_t at = 0;
  for (; n > 0 && at < text.size(); --n) at += character_size(text, at);
  return at;
}

bool is_space(char32_t character) { return is_white_space(character) || (character >= 0x1C && character <= 0x1F); }

std::string_view stripped(std::string_view text, std::string_view set, bool left, bool right) {
  const auto goes = [&](std::size_t at) {
    return set.empty() ? is_space(character_at(text, at)) : contains(set, text.substr(at, character_size(text, at)));
  };
  while (left && !text.empty() && goes(0)) text.remove_prefix(character_size(text, 0));
  while (right && !text.empty() && goes(last_character(text))) text.remove_suffix(text.size() - last_character(text));
  return text;
}

std::string lowered(std::string_view text) {
  return changed(text,
                 [](char32_t c) { return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))); });
}

std::string raised(std::string_view text) {
  return changed(text,
                 [](char32_t c) { return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))); });
}

std::string capital(std::string_view text) {
  if (text.empty()) return "";
  const std::size_t first = character_size(text, 0);
  return raised(text.substr(0, first)) + lowered(text.substr(first));
}

bool is_letter(char32_t character) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(character));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

}  // namespace voronoi::model::jinja
