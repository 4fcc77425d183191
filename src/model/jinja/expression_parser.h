// Expressions of templates, after the grammar of Jinja 3.1.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/jinja/lexer.h"
#include "model/jinja/syntax.h"

namespace voronoi::model::jinja {

class ExpressionParser {
 public:
  ExpressionParser(std::vector<Token> tokens, const std::string& file) : tokens_(std::move(tokens)), file_(file) {}

 protected:
  using Kind = Expression::Kind;

  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  Token take() { return at_ + 1 < tokens_.size() ? tokens_[at_++] : tokens_[at_]; }
  bool is_sign(std::string_view sign) const { return now().is(Token::Kind::sign, sign); }
  bool is_name(std::string_view name) const { return now().is(Token::Kind::name, name); }
  bool skip_sign(std::string_view sign);
  bool skip_name(std::string_view name);
  void expect_sign(std::string_view sign);
  std::string expect_name();
  [[noreturn]] void fail(const std::string& message) const { fail_at(file_, now().line, message); }
  /// The token at hand, for messages.
  std::string found() const;

  ExpressionPtr make(Kind kind, std::vector<ExpressionPtr> parts, std::string text = "") const;
  /// Expressions with commas between them are a tuple; with_choice: an `if` may stand behind each.
  ExpressionPtr tuple(bool with_choice = true);
  ExpressionPtr expression(bool with_choice = true);
  /// "| filter | filter": of a block, without what they filter.
  std::vector<ExpressionPtr> block_filters(bool first_without_sign);
  const std::string& file() const { return file_; }

  /// Held while something is parsed that may hold something like itself.
  class Level {
   public:
    explicit Level(ExpressionParser& parser);
    ~Level() { --parser_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    ExpressionParser& parser_;
  };

 private:
  ExpressionPtr choice();
  ExpressionPtr either();
  ExpressionPtr both();
  ExpressionPtr negation();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr term();
  ExpressionPtr power();
  ExpressionPtr unary(bool with_filters);
  ExpressionPtr primary();
  ExpressionPtr list_of(Kind kind, std::string_view close);
  ExpressionPtr parenthesis();
  ExpressionPtr with_postfixes(ExpressionPtr of);
  ExpressionPtr with_filters(ExpressionPtr of);
  ExpressionPtr subscript(ExpressionPtr of);
  ExpressionPtr test_of(ExpressionPtr of);
  void arguments(Expression& call);
  ExpressionPtr literal(Value value) const;
  bool ends_tuple() const;

  std::vector<Token> tokens_;
  const std::string& file_;
  std::size_t at_ = 0;
  int level_ = 0;
};

}  // namespace voronoi::model::jinja
