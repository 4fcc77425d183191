#include "model/jinja/expression_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <initializer_list>
#include <utility>

#include "core/error.h"

namespace voronoi::model::jinja {
namespace {

using namespace std::string_view_literals;

constexpr std::array kComparisons{"=="sv, "!="sv, "<"sv, ">"sv, "<="sv, ">="sv};

ExpressionPtr none() { return nullptr; }

template <class... More>
std::vector<ExpressionPtr> parts_of(More... more) {
  std::vector<ExpressionPtr> parts;
  (parts.push_back(std::move(more)), ...);
  return parts;
}

}  // namespace

ExpressionParser::Level::Level(ExpressionParser& parser) : parser_(parser) {
  if (++parser_.level_ > kMostSyntaxDepth) {
    --parser_.level_;
    parser_.fail(fmt::format("nests more than {} deep", kMostSyntaxDepth));
  }
}

bool ExpressionParser::skip_sign(std::string_view sign) {
  if (!is_sign(sign)) return false;
  take();
  return true;
}

bool ExpressionParser::skip_name(std::string_view name) {
  if (!is_name(name)) return false;
  take();
  return true;
}

void ExpressionParser::expect_sign(std::string_view sign) {
  if (!skip_sign(sign)) fail(fmt::format("'{}' is wanted, and {} stands there", sign, found()));
}

std::string ExpressionParser::expect_name() {
  if (now().kind != Token::Kind::name) fail("a name is wanted, and " + found() + " stands there");
  return take().text;
}

std::string ExpressionParser::found() const {
  switch (now().kind) {
    case Token::Kind::print_end:
    case Token::Kind::block_end:
      return "the end of the tag";
    case Token::Kind::end:
      return "the end of the template";
    case Token::Kind::data:
      return "text";
    case Token::Kind::string:
      return "a string";
    default:
      return "'" + now().text + "'";
  }
}

ExpressionPtr ExpressionParser::make(Kind kind, std::vector<ExpressionPtr> parts, std::string text) const {
  auto made = std::make_unique<Expression>();
  made->kind = kind;
  made->line = now().line;
  made->text = std::move(text);
  for (const ExpressionPtr& part : parts)
    if (part) made->depth = std::max(made->depth, part->depth + 1);
  if (made->depth > kMostSyntaxDepth) fail(fmt::format("nests more than {} deep", kMostSyntaxDepth));
  made->parts = std::move(parts);
  return made;
}

ExpressionPtr ExpressionParser::literal(Value value) const {
  ExpressionPtr made = make(Kind::literal, {});
  made->value = std::move(value);
  return made;
}

bool ExpressionParser::ends_tuple() const {
  return now().kind == Token::Kind::print_end || now().kind == Token::Kind::block_end || is_sign(")");
}

ExpressionPtr ExpressionParser::tuple(bool with_choice) {
  std::vector<ExpressionPtr> parts;
  bool comma = false;
  while (!ends_tuple()) {
    parts.push_back(expression(with_choice));
    if (!is_sign(",")) break;
    take();
    comma = true;
  }
  if (parts.empty()) fail("an expression is wanted, and " + found() + " stands there");
  return comma ? make(Kind::tuple, std::move(parts)) : std::move(parts.front());
}

ExpressionPtr ExpressionParser::expression(bool with_choice) {
  const Level level(*this);
  return with_choice ? choice() : either();
}

ExpressionPtr ExpressionParser::choice() {
  ExpressionPtr left = either();
  while (skip_name("if")) {
    ExpressionPtr test = either();
    ExpressionPtr otherwise = skip_name("else") ? expression() : none();
    left = make(Kind::choice, parts_of(std::move(left), std::move(test), std::move(otherwise)));
  }
  return left;
}

ExpressionPtr ExpressionParser::either() {
  ExpressionPtr left = both();
  while (skip_name("or")) {
    ExpressionPtr right = both();
    left = make(Kind::binary, parts_of(std::move(left), std::move(right)), "or");
  }
  return left;
}

ExpressionPtr ExpressionParser::both() {
  ExpressionPtr left = negation();
  while (skip_name("and")) {
    ExpressionPtr right = negation();
    left = make(Kind::binary, parts_of(std::move(left), std::move(right)), "and");
  }
  return left;
}

ExpressionPtr ExpressionParser::negation() {
  const Level level(*this);
  if (!skip_name("not")) return comparison();
  ExpressionPtr of = negation();
  return make(Kind::unary, parts_of(std::move(of)), "not");
}

ExpressionPtr ExpressionParser::comparison() {
  std::vector<ExpressionPtr> parts = parts_of(sum());
  std::vector<std::string> operators;
  for (;;) {
    if (now().kind == Token::Kind::sign &&
        std::find(kComparisons.begin(), kComparisons.end(), now().text) != kComparisons.end()) {
      operators.push_back(take().text);
    } else if (skip_name("in")) {
      operators.emplace_back("in");
    } else if (is_name("not") && ahead().is(Token::Kind::name, "in")) {
      take();
      take();
      operators.emplace_back("not in");
    } else {
      break;
    }
    parts.push_back(sum());
  }
  if (operators.empty()) return std::move(parts.front());
  ExpressionPtr made = make(Kind::compare, std::move(parts));
  made->operators = std::move(operators);
  return made;
}

ExpressionPtr ExpressionParser::sum() {
  ExpressionPtr left = concatenation();
  while (is_sign("+") || is_sign("-")) {
    std::string sign = take().text;
    ExpressionPtr right = concatenation();
    left = make(Kind::binary, parts_of(std::move(left), std::move(right)), std::move(sign));
  }
  return left;
}

ExpressionPtr ExpressionParser::concatenation() {
  std::vector<ExpressionPtr> parts = parts_of(term());
  while (skip_sign("~")) parts.push_back(term());
  return parts.size() == 1 ? std::move(parts.front()) : make(Kind::concat, std::move(parts));
}

ExpressionPtr ExpressionParser::term() {
  ExpressionPtr left = power();
  while (is_sign("*") || is_sign("/") || is_sign("//") || is_sign("%")) {
    std::string sign = take().text;
    ExpressionPtr right = power();
    left = make(Kind::binary, parts_of(std::move(left), std::move(right)), std::move(sign));
  }
  return left;
}

ExpressionPtr ExpressionParser::power() {
  ExpressionPtr left = unary(true);
  while (skip_sign("**")) {
    ExpressionPtr right = unary(true);
    left = make(Kind::binary, parts_of(std::move(left), std::move(right)), "**");
  }
  return left;
}

ExpressionPtr ExpressionParser::unary(bool filters) {
  const Level level(*this);
  ExpressionPtr made;
  if (is_sign("-") || is_sign("+")) {
    std::string sign = take().text;
    ExpressionPtr of = unary(false);
    made = make(Kind::unary, parts_of(std::move(of)), std::move(sign));
  } else {
    made = primary();
  }
  made = with_postfixes(std::move(made));
  return filters ? with_filters(std::move(made)) : std::move(made);
}

ExpressionPtr ExpressionParser::primary() {
  const Token& token = now();
  if (token.kind == Token::Kind::name) {
    const std::string name = take().text;
    if (name == "true" || name == "True") return literal(Value::boolean(true));
    if (name == "false" || name == "False") return literal(Value::boolean(false));
    if (name == "none" || name == "None") return literal({});
    return make(Kind::name, {}, name);
  }
  if (token.kind == Token::Kind::string) {
    std::string text;
    while (now().kind == Token::Kind::string) text += take().text;
    return literal(Value::text(std::move(text)));
  }
  if (token.kind == Token::Kind::integer || token.kind == Token::Kind::number) {
    const bool whole = token.kind == Token::Kind::integer;
    const std::string text = take().text;
    std::int64_t integer = 0;
    double number = 0;
    const auto read = whole ? std::from_chars(text.data(), text.data() + text.size(), integer)
                            : std::from_chars(text.data(), text.data() + text.size(), number);
    if (read.ec != std::errc() || read.ptr != text.data() + text.size()) fail("the number " + text + " is too large");
    return literal(whole ? Value::integer(integer) : Value::number(number));
  }
  if (is_sign("(")) return parenthesis();
  if (skip_sign("[")) return list_of(Kind::list, "]");
  if (skip_sign("{")) return list_of(Kind::dict, "}");
  fail("an expression is wanted, and " + found() + " stands there");
}

ExpressionPtr ExpressionParser::parenthesis() {
  take();
  if (skip_sign(")")) return make(Kind::tuple, {});
  ExpressionPtr made = tuple();
  expect_sign(")");
  return made;
}

ExpressionPtr ExpressionParser::list_of(Kind kind, std::string_view close) {
  std::vector<ExpressionPtr> parts;
  while (!is_sign(close)) {
    if (!parts.empty()) expect_sign(",");
    if (is_sign(close)) break;
    parts.push_back(expression());
    if (kind != Kind::dict) continue;
    expect_sign(":");
    parts.push_back(expression());
  }
  expect_sign(close);
  return make(kind, std::move(parts));
}

ExpressionPtr ExpressionParser::with_postfixes(ExpressionPtr of) {
  for (;;) {
    if (skip_sign(".")) {
      if (now().kind == Token::Kind::integer) {
        ExpressionPtr index = primary();
        of = make(Kind::item, parts_of(std::move(of), std::move(index)));
      } else {
        std::string name = expect_name();
        of = make(Kind::attribute, parts_of(std::move(of)), std::move(name));
      }
    } else if (skip_sign("[")) {
      of = subscript(std::move(of));
    } else if (is_sign("(")) {
      of = make(Kind::call, parts_of(std::move(of)));
      arguments(*of);
    } else {
      return of;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr of) {
  ExpressionPtr first = is_sign(":") ? none() : expression();
  if (!is_sign(":")) {
    if (is_sign(",")) fail("a subscript of several parts is not supported");
    expect_sign("]");
    return make(Kind::item, parts_of(std::move(of), std::move(first)));
  }
  std::vector<ExpressionPtr> parts = parts_of(std::move(of), std::move(first));
  while (parts.size() < 4 && skip_sign(":")) parts.push_back(is_sign(":") || is_sign("]") ? none() : expression());
  expect_sign("]");
  parts.resize(4);
  return make(Kind::slice, std::move(parts));
}

void ExpressionParser::arguments(Expression& call) {
  expect_sign("(");
  bool first = true;
  while (!is_sign(")")) {
    if (!first) expect_sign(",");
    first = false;
    if (is_sign(")")) break;
    if (is_sign("*") || is_sign("**")) fail("'*' before an argument is not supported");
    if (now().kind == Token::Kind::name && ahead().is(Token::Kind::sign, "=")) {
      std::string name = take().text;
      take();
      call.named.emplace_back(std::move(name), expression());
      call.depth = std::max(call.depth, call.named.back().second->depth + 1);
    } else {
      if (!call.named.empty()) fail("an argument without a name stands behind one with a name");
      call.parts.push_back(expression());
      call.depth = std::max(call.depth, call.parts.back()->depth + 1);
    }
  }
  expect_sign(")");
  if (call.depth > kMostSyntaxDepth) fail(fmt::format("nests more than {} deep", kMostSyntaxDepth));
}

ExpressionPtr ExpressionParser::with_filters(ExpressionPtr of) {
  for (;;) {
    if (skip_sign("|")) {
      std::string name = expect_name();
      if (!is_filter(name)) fail("the filter '" + name + "' is not supported");
      of = make(Kind::filter, parts_of(std::move(of)), std::move(name));
      if (is_sign("(")) arguments(*of);
    } else if (skip_name("is")) {
      of = test_of(std::move(of));
    } else if (is_sign("(")) {
      of = make(Kind::call, parts_of(std::move(of)));
      arguments(*of);
    } else {
      return of;
    }
  }
}

std::vector<ExpressionPtr> ExpressionParser::block_filters(bool first_without_sign) {
  std::vector<ExpressionPtr> filters;
  while (first_without_sign || skip_sign("|")) {
    first_without_sign = false;
    std::string name = expect_name();
    if (!is_filter(name)) fail("the filter '" + name + "' is not supported");
    filters.push_back(make(Kind::filter, parts_of(none()), std::move(name)));
    if (is_sign("(")) arguments(*filters.back());
  }
  return filters;
}

ExpressionPtr ExpressionParser::test_of(ExpressionPtr of) {
  const bool negated = skip_name("not");
  std::string name = expect_name();
  if (!is_test(name)) fail("the test '" + name + "' is not supported");
  ExpressionPtr made = make(Kind::test, parts_of(std::move(of)), std::move(name));
  const Token::Kind kind = now().kind;
  if (is_sign("(")) {
    arguments(*made);
  } else if (kind == Token::Kind::string || kind == Token::Kind::integer || kind == Token::Kind::number ||
             is_sign("[") || is_sign("{") ||
             (kind == Token::Kind::name && !is_name("else") && !is_name("or") && !is_name("and") && !is_name("if") &&
              !is_name("is") && !is_name("in") && !is_name("not"))) {
    made->parts.push_back(with_postfixes(primary()));
    made->depth = std::max(made->depth, made->parts.back()->depth + 1);
  }
  if (!negated) return made;
  return make(Kind::unary, parts_of(std::move(made)), "not");
}

}  // namespace voronoi::model::jinja
