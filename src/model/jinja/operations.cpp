#include "model/jinja/operations.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "model/jinja/characters.h"

namespace voronoi::model::jinja {
namespace {

constexpr std::int64_t kMostRepeated = std::int64_t{1} << 28;  // bytes or elements: no overflow before they are counted

bool is_number(const Value& value) {
  std::int64_t storage = 0;
  return value.whole(storage) != nullptr || value.as<double>() != nullptr;
}

double number_of(const Value& value) {
  std::int64_t storage = 0;
  const std::int64_t* whole = value.whole(storage);
  return whole != nullptr ? static_cast<double>(*whole) : *value.as<double>();
}

std::int64_t floor_division(std::int64_t a, std::int64_t b) {
  const std::int64_t quotient = a / b;
  return quotient - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

Value of_integers(const std::string& sign, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  bool overflow = false;
  if (sign == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (sign == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (sign == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (sign == "**") {
    if (b < 0) return Value::number(std::pow(static_cast<double>(a), static_cast<double>(b)));
    result = 1;
    if (b > 64 && a != 0 && a != 1 && a != -1) overflow = true;
    for (std::int64_t i = 0; i < std::min<std::int64_t>(b, 64 + b % 2) && !overflow; ++i)
      overflow = __builtin_mul_overflow(result, a, &result);
  } else {
    if (b == 0) throw Fault("a division by zero");
    if (a == std::numeric_limits<std::int64_t>::min() && b == -1)
      overflow = true;
    else
      result = sign == "//" ? floor_division(a, b) : a - b * floor_division(a, b);
  }
  if (overflow) throw Fault("a number beyond 64 bits");
  return Value::integer(result);
}

Value of_numbers(const std::string& sign, double a, double b) {
  if (sign == "+") return Value::number(a + b);
  if (sign == "-") return Value::number(a - b);
  if (sign == "*") return Value::number(a * b);
  if (sign == "**") return Value::number(std::pow(a, b));
  if (b == 0) throw Fault("a division by zero");
  if (sign == "/") return Value::number(a / b);
  const double quotient = std::floor(a / b);
  return Value::number(sign == "//" ? quotient : a - b * quotient);
}

Value repeated(const Value& value, std::int64_t times, Budget& budget) {
  times = std::max<std::int64_t>(times, 0);
  const auto of =
      static_cast<std::int64_t>(value.string() != nullptr ? value.string()->size() : value.items()->items.size());
  if (of > 0 && times > kMostRepeated / of) throw Fault("a repetition of too much");
  if (const std::string* text = value.string()) {
    budget.grow(static_cast<std::size_t>(of * times));
    std::string out;
    for (std::int64_t i = 0; i < times && of > 0; ++i) out += *text;
    return Value::text(std::move(out));
  }
  budget.spend(of * times);
  std::vector<Value> items;
  for (std::int64_t i = 0; i < times && of > 0; ++i)
    items.insert(items.end(), value.items()->items.begin(), value.items()->items.end());
  return Value::list(std::move(items), value.items()->tuple);
}

bool contains(const Value& a, const Value& b) {
  if (const std::string* text = b.string()) {
    const std::string* part = a.string();
    if (part == nullptr) throw Fault(kind_of(a) + " is looked for in a string");
    return text->find(*part) != std::string::npos;
  }
  if (const Dict* dict = b.map()) return a.string() != nullptr && dict->find(*a.string()) != nullptr;
  if (const List* list = b.items())
    return std::any_of(list->items.begin(), list->items.end(), [&](const Value& item) { return equal(item, a); });
  if (b.is_undefined()) return false;
  throw Fault("something is looked for in " + kind_of(b));
}

void require_defined(const Value& value) {
  if (value.is_undefined()) throw Fault(kind_of(value) + " is used");
}

Value attribute_of_loop(const Loop& loop, const std::string& name) {
  const std::int64_t n = std::ssize(loop.items->items);
  const auto at = [&](std::int64_t i) {
    return i >= 0 && i < n ? loop.items->items[static_cast<std::size_t>(i)] : Value::undefined("loop." + name);
  };
  if (name == "index") return Value::integer(loop.index + 1);
  if (name == "index0") return Value::integer(loop.index);
  if (name == "revindex") return Value::integer(n - loop.index);
  if (name == "revindex0") return Value::integer(n - loop.index - 1);
  if (name == "first") return Value::boolean(loop.index == 0);
  if (name == "last") return Value::boolean(loop.index + 1 == n);
  if (name == "length") return Value::integer(n);
  if (name == "depth") return Value::integer(loop.depth + 1);
  if (name == "depth0") return Value::integer(loop.depth);
  if (name == "previtem") return at(loop.index - 1);
  if (name == "nextitem") return at(loop.index + 1);
  throw Fault("'loop." + name + "' is not supported");
}

/// A bound of a slice over n elements, as Python clips it.
std::int64_t bound(const Value& value, std::int64_t n, std::int64_t otherwise, std::int64_t least, std::int64_t most) {
  if (value.is_none()) return otherwise;
  std::int64_t storage = 0;
  const std::int64_t* whole = value.whole(storage);
  if (whole == nullptr) throw Fault("a slice from or to " + kind_of(value));
  return std::clamp(*whole < 0 ? std::max(*whole, -n - 1) + n : *whole, least, most);
}

}  // namespace

void Budget::spend(std::int64_t steps) {
  steps_ += steps;
  if (steps_ > limits_.steps) throw Fault(fmt::format("takes more than {} steps", limits_.steps));
}

void Budget::grow(std::size_t bytes) {
  bytes_ += bytes;
  if (bytes_ > limits_.bytes) throw Fault(fmt::format("makes more than {} bytes of text", limits_.bytes));
}

const Value* Arguments::find(std::size_t i, std::string_view name) const {
  if (i < values.size()) return &values[i];
  const auto found = std::find_if(named.begin(), named.end(), [&](const auto& one) { return one.first == name; });
  return found == named.end() ? nullptr : &found->second;
}

bool Arguments::flag(std::size_t i, std::string_view name, bool otherwise) const {
  const Value* value = find(i, name);
  return value == nullptr ? otherwise : truth(*value);
}

std::int64_t Arguments::whole(std::size_t i, std::string_view name, std::int64_t otherwise) const {
  const Value* value = find(i, name);
  if (value == nullptr || value->is_none()) return otherwise;
  std::int64_t storage = 0;
  const std::int64_t* whole = value->whole(storage);
  if (whole == nullptr) throw Fault(kind_of(*value) + " is given where a whole number is wanted");
  return *whole;
}

std::string Arguments::text(std::size_t i, std::string_view name, const char* otherwise) const {
  const Value* value = find(i, name);
  if ((value == nullptr || value->is_none()) && otherwise != nullptr) return otherwise;
  if (value == nullptr) throw Fault(fmt::format("the argument '{}' is missing", name));
  if (value->string() == nullptr) throw Fault(kind_of(*value) + " is given where a string is wanted");
  return *value->string();
}

void Arguments::only(std::size_t most, std::initializer_list<std::string_view> names) const {
  if (values.size() > most) throw Fault("has more arguments than are supported");
  for (const auto& [name, value] : named)
    if (std::find(names.begin(), names.end(), name) == names.end())
      throw Fault("the argument '" + name + "' is not supported");
}

Value arithmetic(const std::string& sign, const Value& a, const Value& b, Budget& budget) {
  require_defined(a);
  require_defined(b);
  if (is_number(a) && is_number(b)) {
    std::int64_t x = 0, y = 0;
    const std::int64_t *p = a.whole(x), *q = b.whole(y);
    return p != nullptr && q != nullptr && sign != "/" ? of_integers(sign, *p, *q)
                                                       : of_numbers(sign, number_of(a), number_of(b));
  }
  if (sign == "+" && a.string() != nullptr && b.string() != nullptr) {
    budget.grow(a.string()->size() + b.string()->size());
    return Value::text(*a.string() + *b.string());
  }
  if (sign == "+" && a.items() != nullptr && b.items() != nullptr && a.items()->tuple == b.items()->tuple) {
    std::vector<Value> items = a.items()->items;
    items.insert(items.end(), b.items()->items.begin(), b.items()->items.end());
    budget.spend(std::ssize(items));
    return Value::list(std::move(items), a.items()->tuple);
  }
  std::int64_t storage = 0;
  const auto is_sequence = [](const Value& value) { return value.string() != nullptr || value.items() != nullptr; };
  if (sign == "*" && is_sequence(a) && b.whole(storage) != nullptr) return repeated(a, *b.whole(storage), budget);
  if (sign == "*" && is_sequence(b) && a.whole(storage) != nullptr) return repeated(b, *a.whole(storage), budget);
  throw Fault(fmt::format("'{}' of {} and {} is not supported", sign, kind_of(a), kind_of(b)));
}

Value negative(const Value& value) {
  std::int64_t storage = 0;
  if (const std::int64_t* whole = value.whole(storage)) return of_integers("-", 0, *whole);
  if (const double* number = value.as<double>()) return Value::number(-*number);
  throw Fault("'-' of " + kind_of(value));
}

bool compare(const std::string& sign, const Value& a, const Value& b) {
  if (sign == "==") return equal(a, b);
  if (sign == "!=") return !equal(a, b);
  if (sign == "in") return contains(a, b);
  if (sign == "not in") return !contains(a, b);
  if (sign == "<") return less(a, b);
  if (sign == ">") return less(b, a);
  return sign == "<=" ? less(a, b) || equal(a, b) : less(b, a) || equal(a, b);
}

Value attribute_of(const Value& value, const std::string& name) {
  require_defined(value);
  if (const auto* space = value.as<Namespace*>()) {
    for (const auto& [attribute, held] : (*space)->attributes)
      if (attribute == name) return held;
    return Value::undefined(name);
  }
  if (const auto* loop = value.as<std::shared_ptr<const Loop>>()) return attribute_of_loop(**loop, name);
  if (is_method(value, name)) return Value(Value::Content(Method{std::make_shared<const Value>(value), name}));
  if (const Dict* dict = value.map())
    if (const Value* held = dict->find(name)) return *held;
  return Value::undefined(name);
}

Value item_of(const Value& value, const Value& key) {
  require_defined(value);
  std::int64_t storage = 0;
  if (const std::int64_t* whole = key.whole(storage)) {
    if (value.items() == nullptr && value.string() == nullptr) return Value::undefined(std::to_string(*whole));
    const std::int64_t n = length(value), i = *whole < 0 ? *whole + n : *whole;
    if (*whole < -n || i >= n) return Value::undefined(std::to_string(*whole));
    if (const List* list = value.items()) return list->items[static_cast<std::size_t>(i)];
    const std::size_t at = byte_of(*value.string(), i);
    return Value::text(value.string()->substr(at, character_size(*value.string(), at)));
  }
  const std::string* name = key.string();
  if (name == nullptr) return Value::undefined(kind_of(key));
  if (const Dict* dict = value.map())
    if (const Value* held = dict->find(*name)) return *held;
  return attribute_of(value, *name);
}

Value slice_of(const Value& value, const Value& first, const Value& last, const Value& step, Budget& budget) {
  require_defined(value);
  if (value.items() == nullptr && value.string() == nullptr) throw Fault("a slice of " + kind_of(value));
  std::int64_t storage = 1;
  const std::int64_t* stepped = step.is_none() ? &storage : step.whole(storage);
  if (stepped == nullptr) throw Fault("a slice by steps of " + kind_of(step));
  const std::int64_t n = length(value), by = std::clamp(*stepped, -n - 1, n + 1);
  if (by == 0) throw Fault("a slice of step 0");
  const std::int64_t begin = by > 0 ? bound(first, n, 0, 0, n) : bound(first, n, n - 1, -1, n - 1);
  const std::int64_t end = by > 0 ? bound(last, n, n, 0, n) : bound(last, n, -1, -1, n - 1);
  if (const std::string* text = value.string(); text != nullptr && by == 1) {
    const std::size_t from = byte_of(*text, begin);
    std::string out = begin < end ? text->substr(from, byte_of(std::string_view(*text).substr(from), end - begin)) : "";
    budget.grow(out.size());
    return Value::text(std::move(out));
  }
  const std::vector<Value> all = elements(value);
  budget.spend(n);
  std::vector<Value> taken;
  for (std::int64_t i = begin; by > 0 ? i < end : i > end; i += by) taken.push_back(all[static_cast<std::size_t>(i)]);
  if (value.items() != nullptr) return Value::list(std::move(taken), value.items()->tuple);
  std::string out;
  for (const Value& character : taken) out += *character.string();
  budget.grow(out.size());
  return Value::text(std::move(out));
}

}  // namespace voronoi::model::jinja
