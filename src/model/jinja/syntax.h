// A parsed template.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/jinja/value.h"

namespace voronoi::model::jinja {

/// Nodes within nodes, at most so deep: whatever walks them may recurse.
inline constexpr int kMostSyntaxDepth = 200;

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    literal,    ///< value
    name,       ///< text
    list,       ///< parts
    tuple,      ///< parts
    dict,       ///< parts: key, value, key, ...
    attribute,  ///< parts[0] . text
    item,       ///< parts[0] [parts[1]]
    slice,      ///< parts[0] [parts[1] : parts[2] : parts[3]], null where there is none
    call,       ///< parts[0] (parts[1...], named)
    filter,     ///< parts[0] | text (parts[1...], named); parts[0] null: of a block
    test,       ///< parts[0] is text (parts[1...], named)
    unary,      ///< text (not, -, +) parts[0]
    binary,     ///< parts[0] text parts[1]: arithmetic, and, or
    compare,    ///< parts[0] operators[0] parts[1] operators[1] ...
    concat,     ///< parts[0] ~ parts[1] ~ ...
    choice,     ///< parts[0] if parts[1] else parts[2], which may be null
  };
  Kind kind = Kind::literal;
  std::int64_t line = 1;
  int depth = 1;
  std::string text;
  Value value;
  std::vector<ExpressionPtr> parts;
  std::vector<std::string> operators;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Statement;
using Body = std::vector<Statement>;

/// What is assigned to: names, or an attribute of a namespace.
struct Target {
  std::vector<std::string> names;
  bool tuple = false;     ///< of several values, one a name
  std::string attribute;  ///< not empty: of the namespace names[0]
};

struct Statement {
  enum class Kind {
    data,          ///< text
    print,         ///< value
    branch,        ///< branches in turn; the last may have no test
    loop,          ///< for target in value if test: bodies[0]; else: bodies[1]
    set,           ///< target = value
    set_block,     ///< target = bodies[0] through filters
    filter_block,  ///< bodies[0] through filters
    with,          ///< sets, then bodies[0] in a scope of its own
    group,         ///< bodies[0]: what a tag without a meaning here encloses
    leave,         ///< break
    next,          ///< continue
    macro,         ///< number `macro` of the template
  };
  Kind kind = Kind::data;
  std::int64_t line = 1;
  std::string text;
  Target target;
  ExpressionPtr value, test;
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  std::vector<std::pair<Target, ExpressionPtr>> sets;
  std::vector<ExpressionPtr> filters;  ///< each with parts[0] null
  std::vector<Body> bodies;
  std::size_t macro = 0;
};

struct MacroSyntax {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>>
      parameters;  ///< with what stands for one that is not given, or null
  Body body;
};

struct Syntax {
  Body body;
  std::vector<MacroSyntax> macros;
};

/// Throws FormatError naming file, line and the construct that is not understood.
Syntax parse(std::string_view source, const std::string& file);

/// Whether filters and tests of these names are known: others are refused when the template is read.
bool is_filter(std::string_view name);
bool is_test(std::string_view name);

}  // namespace voronoi::model::jinja
