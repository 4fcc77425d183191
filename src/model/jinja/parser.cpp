// Statements of templates.
#include <fmt/format.h>

#include <array>
#include <initializer_list>
#include <utility>

#include "model/jinja/expression_parser.h"

namespace voronoi::model::jinja {
namespace {

using Words = std::initializer_list<std::string_view>;

class Parser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Syntax run() {
    syntax_.body = body({});
    return std::move(syntax_);
  }

 private:
  /// Up to a tag that begins with one of `ends`, of which the word is not taken; without ends, to the template's end.
  Body body(Words ends) {
    const Level level(*this);
    Body statements;
    for (;;) {
      Statement statement;
      statement.line = now().line;
      if (now().kind == Token::Kind::data) {
        statement.text = take().text;
      } else if (now().kind == Token::Kind::print) {
        take();
        statement.kind = Statement::Kind::print;
        statement.value = tuple();
        if (now().kind != Token::Kind::print_end)
          fail("the expression goes on with " + found() + ", which is not understood");
        take();
      } else if (now().kind == Token::Kind::block) {
        for (const std::string_view end : ends)
          if (ahead().is(Token::Kind::name, end)) {
            take();
            return statements;
          }
        take();
        tag(statement);
      } else {
        if (ends.size() > 0) fail(fmt::format("the template ends before {{% {} %}}", *(ends.end() - 1)));
        return statements;
      }
      statements.push_back(std::move(statement));
    }
  }

  void end_of_tag() {
    if (now().kind != Token::Kind::block_end) fail("the tag goes on with " + found() + ", which is not understood");
    take();
  }
  void end_of(std::string_view word) {
    expect_word(word);
    end_of_tag();
  }
  void expect_word(std::string_view word) {
    if (!skip_name(word)) fail(fmt::format("{{% {} %}} is wanted, and {} stands there", word, found()));
  }

  void tag(Statement& statement) {
    const std::string word = expect_name();
    if (word == "if") return branch(statement);
    if (word == "for") return loop(statement);
    if (word == "set") return set(statement);
    if (word == "macro") return macro(statement);
    if (word == "with") return with(statement);
    if (word == "filter") return filter(statement);
    if (word == "generation") {
      statement.kind = Statement::Kind::group;
      end_of_tag();
      statement.bodies.push_back(body({"endgeneration"}));
      return end_of("endgeneration");
    }
    if (word == "break" || word == "continue") {
      if (loops_ == 0) fail("{% " + word + " %} stands in no loop");
      statement.kind = word == "break" ? Statement::Kind::leave : Statement::Kind::next;
      return end_of_tag();
    }
    fail("the tag {% " + word + " %} is not supported");
  }

  void branch(Statement& statement) {
    statement.kind = Statement::Kind::branch;
    for (bool more = true; more;) {
      ExpressionPtr test = tuple(false);
      end_of_tag();
      Body then = body({"elif", "else", "endif"});
      statement.branches.emplace_back(std::move(test), std::move(then));
      more = skip_name("elif");
    }
    if (skip_name("else")) {
      end_of_tag();
      Body otherwise = body({"endif"});
      statement.branches.emplace_back(nullptr, std::move(otherwise));
    }
    end_of("endif");
  }

  Target target(bool may_be_attribute) {
    Target made;
    const bool open = skip_sign("(");
    made.names.push_back(name_to_set());
    if (may_be_attribute && skip_sign(".")) {
      made.attribute = expect_name();
      return made;
    }
    while (skip_sign(",")) {
      made.tuple = true;
      if (now().kind != Token::Kind::name || is_name("in")) break;
      made.names.push_back(name_to_set());
    }
    if (open) expect_sign(")");
    return made;
  }
  std::string name_to_set() {
    for (const std::string_view fixed : {"true", "false", "none", "True", "False", "None"})
      if (is_name(fixed)) fail("'" + std::string(fixed) + "' is assigned to");
    return expect_name();
  }

  void loop(Statement& statement) {
    statement.kind = Statement::Kind::loop;
    statement.target = target(false);
    expect_word("in");
    statement.value = tuple(false);
    if (skip_name("if")) statement.test = expression();
    if (is_name("recursive")) fail("a recursive loop is not supported");
    end_of_tag();
    ++loops_;
    statement.bodies.push_back(body({"else", "endfor"}));
    --loops_;
    statement.bodies.emplace_back();
    if (skip_name("else")) {
      end_of_tag();
      statement.bodies.back() = body({"endfor"});
    }
    end_of("endfor");
  }

  void set(Statement& statement) {
    statement.target = target(true);
    if (skip_sign("=")) {
      statement.kind = Statement::Kind::set;
      statement.value = tuple();
      return end_of_tag();
    }
    statement.kind = Statement::Kind::set_block;
    statement.filters = block_filters(false);
    end_of_tag();
    statement.bodies.push_back(body({"endset"}));
    end_of("endset");
  }

  void filter(Statement& statement) {
    statement.kind = Statement::Kind::filter_block;
    statement.filters = block_filters(true);
    end_of_tag();
    statement.bodies.push_back(body({"endfilter"}));
    end_of("endfilter");
  }

  void with(Statement& statement) {
    statement.kind = Statement::Kind::with;
    while (now().kind != Token::Kind::block_end) {
      if (!statement.sets.empty()) expect_sign(",");
      Target to = target(false);
      expect_sign("=");
      statement.sets.emplace_back(std::move(to), expression());
    }
    end_of_tag();
    statement.bodies.push_back(body({"endwith"}));
    end_of("endwith");
  }

  void macro(Statement& statement) {
    statement.kind = Statement::Kind::macro;
    MacroSyntax made;
    made.name = expect_name();
    if (loops_ > 0 || in_macro_) fail("the macro " + made.name + " stands in a loop or macro, which is not supported");
    expect_sign("(");
    while (!is_sign(")")) {
      if (!made.parameters.empty()) expect_sign(",");
      std::string name = expect_name();
      made.parameters.emplace_back(std::move(name), skip_sign("=") ? expression() : nullptr);
    }
    expect_sign(")");
    end_of_tag();
    in_macro_ = true;
    made.body = body({"endmacro"});
    in_macro_ = false;
    end_of("endmacro");
    statement.macro = syntax_.macros.size();
    statement.text = made.name;
    syntax_.macros.push_back(std::move(made));
  }

  Syntax syntax_;
  int loops_ = 0;
  bool in_macro_ = false;
};

}  // namespace

Syntax parse(std::string_view source, const std::string& file) { return Parser(lex(source, file), file).run(); }

}  // namespace voronoi::model::jinja
