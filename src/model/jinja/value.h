// Values of templates, as Python's are: what templates of models compute with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/json.h"

namespace voronoi::model::jinja {

class Value;

/// Cannot be evaluated: said of the template, or of what it was given. The line is added where it is caught.
class Fault {
 public:
  explicit Fault(std::string message) : message_(std::move(message)) {}
  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

/// Values within values, at most so deep: whatever walks them may recurse.
inline constexpr int kMostValueDepth = 64;

struct Undefined {
  std::string name;  ///< what was looked for
};
struct List {
  std::vector<Value> items;
  bool tuple = false;
  int depth = 1;
};
/// Keys are strings alone, in the order in which they came.
struct Dict {
  std::vector<std::pair<std::string, Value>> items;
  int depth = 1;
  const Value* find(std::string_view key) const;
};
/// What namespace() makes: its attributes may be set. The renderer owns it.
struct Namespace;
/// The variable `loop`.
struct Loop {
  std::shared_ptr<const List> items;
  std::int64_t index = 0;  ///< from 0
  int depth = 0;           ///< loops around it
};
/// A macro of the template, by its number.
struct Macro {
  std::size_t number = 0;
};
enum class Function { range, make_namespace, dict, raise_exception, strftime_now };
/// An attribute of a string, list or dict that is called.
struct Method {
  std::shared_ptr<const Value> self;
  std::string name;
};

class Value {
 public:
  using Text = std::shared_ptr<const std::string>;
  using Content =
      std::variant<Undefined, std::monostate, bool, std::int64_t, double, Text, std::shared_ptr<const List>,
                   std::shared_ptr<const Dict>, Namespace*, std::shared_ptr<const Loop>, Macro, Function, Method>;

  Value() : content_(std::monostate()) {}  ///< none
  Value(Content content) : content_(std::move(content)) {}
  static Value undefined(std::string name) { return Value(Content(Undefined{std::move(name)})); }
  static Value boolean(bool value) { return Value(Content(value)); }
  static Value integer(std::int64_t value) { return Value(Content(value)); }
  static Value number(double value) { return Value(Content(value)); }
  static Value text(std::string value) { return Value(Content(std::make_shared<const std::string>(std::move(value)))); }
  /// Throw Fault beyond kMostValueDepth.
  static Value list(std::vector<Value> items, bool tuple = false);
  static Value dict(std::vector<std::pair<std::string, Value>> items);

  const Content& content() const { return content_; }
  template <class T>
  const T* as() const {
    return std::get_if<T>(&content_);
  }
  bool is_undefined() const { return as<Undefined>() != nullptr; }
  bool is_none() const { return as<std::monostate>() != nullptr; }
  const std::string* string() const;
  const List* items() const;
  const Dict* map() const;
  /// Of a boolean or integer.
  const std::int64_t* whole(std::int64_t& storage) const;

  /// Levels of values within it.
  int depth() const;

 private:
  Content content_;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
};

/// bool() of Python.
bool truth(const Value& value);
/// str(): what is printed. Throws Fault for functions.
std::string to_text(const Value& value);
/// repr(): as in a list that is printed.
std::string to_repr(const Value& value);
/// For messages: "a string".
std::string kind_of(const Value& value);
bool equal(const Value& a, const Value& b);
/// Whether a < b. Throws Fault where Python has no order.
bool less(const Value& a, const Value& b);
/// The elements of a list, keys of a dict, characters of a string, none of what is undefined. Throws Fault for others.
std::vector<Value> elements(const Value& value);
/// len(), of characters for strings. Throws Fault for what has none.
std::int64_t length(const Value& value);

struct JsonStyle {
  bool ascii = false, sort_keys = false;
  int indent = -1;  ///< below 0: on one line
  std::string between = ", ", colon = ": ";
};
/// json.dumps(). Throws Fault for what JSON has not.
std::string to_json(const Value& value, const JsonStyle& style);
Value from_json(const core::Json& json);

/// Python's repr of a number: "1.0", "1e+16".
std::string float_text(double value);

}  // namespace voronoi::model::jinja
