// Strings of templates by characters, as Python counts them. What is no UTF-8 counts a byte a character.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace voronoi::model::jinja {

/// Bytes of the character at text[at].
std::size_t character_size(std::string_view text, std::size_t at);
char32_t character_at(std::string_view text, std::size_t at);
std::int64_t count_characters(std::string_view text);
/// Byte at which the n-th character begins; the size where there are fewer.
std::size_t byte_of(std::string_view text, std::int64_t n);

/// As str.isspace().
bool is_space(char32_t character);
/// Without the characters of `set` at its ends (empty: without white space).
std::string_view stripped(std::string_view text, std::string_view set, bool left, bool right);

std::string lowered(std::string_view text);
std::string raised(std::string_view text);
/// First character large, the others small.
std::string capital(std::string_view text);
bool is_letter(char32_t character);

}  // namespace voronoi::model::jinja
