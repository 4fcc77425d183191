// What templates do with values: operators, attributes, methods, filters, tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/jinja/limits.h"
#include "model/jinja/value.h"

namespace voronoi::model::jinja {

/// What is left of a rendering's limits.
class Budget {
 public:
  explicit Budget(const Limits& limits) : limits_(limits) {}
  /// So many more steps. Throws Fault beyond the limit, as the other does.
  void spend(std::int64_t steps = 1);
  /// A string of so many more bytes is made.
  void grow(std::size_t bytes);

 private:
  Limits limits_;
  std::int64_t steps_ = 0;
  std::size_t bytes_ = 0;
};

struct Arguments {
  std::vector<Value> values;
  std::vector<std::pair<std::string, Value>> named;

  /// The i-th one, which may be named; null when it is not given.
  const Value* find(std::size_t i, std::string_view name) const;
  bool flag(std::size_t i, std::string_view name, bool otherwise) const;
  std::int64_t whole(std::size_t i, std::string_view name, std::int64_t otherwise) const;
  /// Throws Fault where it is no string.
  std::string text(std::size_t i, std::string_view name, const char* otherwise = nullptr) const;
  /// Throws Fault when there are more than `most` without a name, or one of another name.
  void only(std::size_t most, std::initializer_list<std::string_view> names = {}) const;
};

/// + - * / // % **
Value arithmetic(const std::string& sign, const Value& a, const Value& b, Budget& budget);
Value negative(const Value& value);
/// == != < > <= >= in, "not in"
bool compare(const std::string& sign, const Value& a, const Value& b);
/// Throw Fault for what is undefined; what is not there is undefined.
Value attribute_of(const Value& value, const std::string& name);
Value item_of(const Value& value, const Value& key);
/// Bounds and step: none where they are not given.
Value slice_of(const Value& value, const Value& first, const Value& last, const Value& step, Budget& budget);
/// Whether attribute_of gives a method of this name.
bool is_method(const Value& self, std::string_view name);
Value call_method(const Value& self, const std::string& name, const Arguments& arguments, Budget& budget);

/// input | name(arguments)
Value filtered(const std::string& name, const Value& input, const Arguments& arguments, Budget& budget);
/// input is name(arguments)
bool passes(const std::string& name, const Value& input, const Arguments& arguments, Budget& budget);

}  // namespace voronoi::model::jinja
