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

/// Normalization form C of valid UTF-8.
std::string to_nfc(std::string_view text);

/// Valid UTF-8 with its first character in title case and the others in lower case, each as one character.
std::string capitalised(std::string_view text);

/// The White_Space property.
bool is_white_space(char32_t code_point);

}  // namespace voronoi::model
