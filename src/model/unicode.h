// UTF-8: validity, replacement of what is not valid, composition (NFC).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/utf8.h"

namespace voronoi::model {

using core::utf8_length;

/// Code point of the well-formed character of `length` bytes at text[at].
char32_t utf8_code_point(std::string_view text, std::size_t at, std::size_t length);
std::string utf8_encode(char32_t code_point);

bool is_valid_utf8(std::string_view text);

/// `text` itself when it is valid; otherwise a copy in `storage` in which every maximal ill-formed part is U+FFFD
/// (The Unicode Standard, 3.9, "U+FFFD Substitution of Maximal Subparts").
std::string_view valid_utf8(std::string_view text, std::string& storage);

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content);

enum class UnicodeForm { nfc, nfd, nfkc, nfkd };
/// Valid UTF-8 in a normalization form.
std::string normalized(std::string_view text, UnicodeForm form);

/// Valid UTF-8 with its first character in title case and the others in lower case, each as one character.
std::string capitalised(std::string_view text);

/// A letter, mark, digit or connector, as \w matches them.
bool is_word_character(char32_t code_point);

/// The White_Space property.
bool is_white_space(char32_t code_point);

}  // namespace voronoi::model
