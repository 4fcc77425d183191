// What may stand behind `is`.
#include <algorithm>
#include <array>

#include "model/jinja/characters.h"
#include "model/jinja/operations.h"
#include "model/jinja/syntax.h"

namespace voronoi::model::jinja {
namespace {

using namespace std::string_view_literals;

constexpr std::array kTests{"boolean"sv, "callable"sv, "defined"sv,   "divisibleby"sv, "eq"sv,     "equalto"sv,
                            "even"sv,    "false"sv,    "float"sv,     "ge"sv,          "gt"sv,     "in"sv,
                            "integer"sv, "iterable"sv, "le"sv,        "lower"sv,       "lt"sv,     "mapping"sv,
                            "ne"sv,      "none"sv,     "number"sv,    "odd"sv,         "sameas"sv, "sequence"sv,
                            "string"sv,  "true"sv,     "undefined"sv, "upper"sv};

const Value& argument_of(const Arguments& arguments) {
  arguments.only(1);
  if (arguments.values.empty()) throw Fault("the test has no argument");
  return arguments.values.front();
}

std::int64_t remainder_of(const Value& input, const Value& by, Budget& budget) {
  const Value rest = arithmetic("%", input, by, budget);
  std::int64_t storage = 0;
  const std::int64_t* whole = rest.whole(storage);
  return whole != nullptr ? *whole : *rest.as<double>() != 0 ? 1 : 0;
}

bool is_callable(const Value& value) {
  return value.as<Macro>() != nullptr || value.as<Function>() != nullptr || value.as<Method>() != nullptr;
}

/// Of what has to do with another value.
bool compares(std::string_view name, const Value& input, const Value& other, Budget& budget) {
  if (name == "eq" || name == "equalto") return compare("==", input, other);
  if (name == "ne") return compare("!=", input, other);
  if (name == "lt") return compare("<", input, other);
  if (name == "le") return compare("<=", input, other);
  if (name == "gt") return compare(">", input, other);
  if (name == "ge") return compare(">=", input, other);
  if (name == "in") return compare("in", input, other);
  if (name == "divisibleby") return remainder_of(input, other, budget) == 0;
  return input.content().index() == other.content().index() && equal(input, other);  // sameas
}

}  // namespace

bool is_test(std::string_view name) { return std::find(kTests.begin(), kTests.end(), name) != kTests.end(); }

bool passes(const std::string& name, const Value& input, const Arguments& arguments, Budget& budget) {
  budget.spend();
  const bool* flag = input.as<bool>();
  const bool whole = input.as<std::int64_t>() != nullptr, real = input.as<double>() != nullptr;
  const bool sequence = input.string() != nullptr || input.items() != nullptr || input.map() != nullptr;
  if (name == "defined") return !input.is_undefined();
  if (name == "undefined") return input.is_undefined();
  if (name == "none") return input.is_none();
  if (name == "string") return input.string() != nullptr;
  if (name == "mapping") return input.map() != nullptr;
  if (name == "sequence") return sequence || input.is_undefined();
  if (name == "iterable") return sequence || input.is_undefined();
  if (name == "number") return flag != nullptr || whole || real;
  if (name == "integer") return whole;
  if (name == "float") return real;
  if (name == "boolean") return flag != nullptr;
  if (name == "true") return flag != nullptr && *flag;
  if (name == "false") return flag != nullptr && !*flag;
  if (name == "callable") return is_callable(input);
  if (name == "even") return remainder_of(input, Value::integer(2), budget) == 0;
  if (name == "odd") return remainder_of(input, Value::integer(2), budget) == 1;
  if (name == "lower") return to_text(input) == lowered(to_text(input));
  if (name == "upper") return to_text(input) == raised(to_text(input));
  return compares(name, input, argument_of(arguments), budget);
}

}  // namespace voronoi::model::jinja
