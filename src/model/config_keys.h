// Typed look-ups in a config.json; every fault names file and key. Private to model/.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/json.h"

namespace voronoi::model {

/// What stands where another kind of value is wanted, for messages.
inline std::string found_text(const core::Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  if (value.is_null()) return "null";
  if (value.is_string()) return "the string " + core::quote_text(value.get_ref<const std::string&>());
  return std::string(value.type_name()) + " " + value.dump();
}

/// Typed look-ups in one object; `prefix` ("rope_scaling.") stands before keys in messages.
class Keys {
 public:
  Keys(const core::Json& object, const std::string& file, std::string prefix = "")
      : object_(object), file_(file), prefix_(std::move(prefix)) {}

  [[noreturn]] void refuse(std::string_view key, const std::string& message) const {
    throw core::FormatError(file_, "key \"" + prefix_ + std::string(key) + "\": " + message);
  }
  /// nullptr when the key is absent or null.
  const core::Json* find(std::string_view key) const {
    know({key});
    return peek(key);
  }
  /// The same; the key does not become known by it.
  const core::Json* peek(std::string_view key) const {
    const auto entry = object_.find(key);
    return entry == object_.end() || entry->is_null() ? nullptr : &*entry;
  }
  bool is_absent(std::string_view key) const {
    know({key});
    return object_.find(key) == object_.end();
  }
  /// Keys that count as known though nothing is read of them.
  void know(std::initializer_list<std::string_view> keys) const {
    for (const std::string_view key : keys)
      if (!known_.contains(key)) known_.emplace(key);
  }
  /// Names, for messages, of the keys that nobody looked up and that ask for something: their value is neither null nor
  /// false, nor empty.
  std::vector<std::string> unknown() const {
    std::vector<std::string> names;
    for (const auto& item : object_.items()) {
      const core::Json& value = item.value();
      const bool asks = !value.is_null() && value != false && !(value.is_structured() && value.empty());
      if (asks && !known_.contains(item.key())) names.push_back(prefix_ + item.key());
    }
    return names;
  }

  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high) const {
    const core::Json* value = find(key);
    if (value == nullptr)
      refuse(key, std::string(is_absent(key) ? "is missing" : "is null") + "; an integer is wanted");
    const std::string wanted = fmt::format("; an integer from {} to {} is wanted", low, high);
    if (!value->is_number_integer()) refuse(key, "is " + found_text(*value) + wanted);
    const bool fits = !value->is_number_unsigned() ||
                      value->get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()};
    const std::int64_t number = fits ? value->get<std::int64_t>() : 0;
    if (!fits || number < low || number > high) refuse(key, "is " + value->dump() + wanted);
    return number;
  }
  std::int64_t integer_or(std::string_view key, std::int64_t low, std::int64_t high, std::int64_t fallback) const {
    return find(key) == nullptr ? fallback : integer(key, low, high);
  }
  /// An id or a list of them; empty when absent or null. Ids outside the vocabulary name no token and are left out.
  std::vector<std::int64_t> ids(std::string_view key, std::int64_t vocab_size) const {
    const core::Json* value = find(key);
    std::vector<std::int64_t> found;
    if (value == nullptr) return found;
    const auto take = [&](const core::Json& id) {
      if (!id.is_number_integer()) refuse(key, "is " + found_text(*value) + "; an id or a list of ids is wanted");
      // What is made of a GGUF file's metadata is signed.
      const bool natural = id.is_number_unsigned() || id.get<std::int64_t>() >= 0;
      if (natural && id.get<std::uint64_t>() < static_cast<std::uint64_t>(vocab_size))
        found.push_back(id.get<std::int64_t>());
    };
    if (value->is_array())
      for (const core::Json& id : *value) take(id);
    else
      take(*value);
    return found;
  }
  /// A finite number with low < value or, if closed, low <= value.
  double number(std::string_view key, double low, bool closed = false) const {
    const core::Json* value = find(key);
    if (value == nullptr) refuse(key, "is missing; a number is wanted");
    if (!value->is_number()) refuse(key, "is " + found_text(*value) + "; a number is wanted");
    const double found = value->get<double>();
    if (!std::isfinite(found) || !(closed ? found >= low : found > low))
      refuse(key, fmt::format("is {}; a finite number {} {} is wanted", value->dump(), closed ? "of at least" : "above",
                              low));
    return found;
  }
  double number_or(std::string_view key, double low, double fallback, bool closed = false) const {
    return find(key) == nullptr ? fallback : number(key, low, closed);
  }
  bool boolean_or(std::string_view key, bool fallback) const {
    const core::Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) refuse(key, "is " + found_text(*value) + "; true or false is wanted");
    return value->get<bool>();
  }
  /// Empty when the key is absent or null.
  std::string string(std::string_view key) const {
    const core::Json* value = find(key);
    if (value == nullptr) return "";
    if (!value->is_string()) refuse(key, "is " + found_text(*value) + "; a string is wanted");
    return value->get<std::string>();
  }
  const core::Json* object(std::string_view key) const {
    const core::Json* value = find(key);
    if (value != nullptr && !value->is_object())
      refuse(key, "is " + found_text(*value) + "; an object or null is wanted");
    return value;
  }
  const std::string& file() const { return file_; }
  const std::string& prefix() const { return prefix_; }

 private:
  const core::Json& object_;
  const std::string& file_;
  std::string prefix_;
  mutable std::set<std::string, std::less<>> known_;
};

}  // namespace voronoi::model
