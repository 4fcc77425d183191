// A template's source as tokens, after the rules of Jinja 3.1 with trim_blocks and lstrip_blocks, as transformers sets
// them: the newline behind a block tag or comment is dropped, and so are blanks between the begin of its line and it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace voronoi::model::jinja {

inline constexpr std::size_t kMostTemplateBytes = std::size_t{1} << 20;

struct Token {
  enum class Kind { data, print, print_end, block, block_end, name, string, integer, number, sign, end };
  Kind kind = Kind::end;
  std::string text;       ///< of strings with their escapes resolved
  std::int64_t line = 1;  ///< where it begins

  bool is(Kind wanted, std::string_view content) const { return kind == wanted && text == content; }
};

/// The tokens, `end` last. Throws FormatError naming file and line.
std::vector<Token> lex(std::string_view source, const std::string& file);

[[noreturn]] void fail_at(const std::string& file, std::int64_t line, const std::string& message);

}  // namespace voronoi::model::jinja
