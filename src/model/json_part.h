// Typed look-ups in the JSON files of tokenizers; every fault names file and place. Private to model/.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/json.h"

namespace voronoi::model {

using Names = std::initializer_list<std::string_view>;

inline std::string listed(Names names) {
  std::string out;
  for (const std::string_view name : names) out += (out.empty() ? "" : ", ") + std::string(name);
  return out;
}

/// An object of the file with the path of keys that leads to it.
class Part {
 public:
  Part(const core::Json& json, std::string file, std::string where)
      : json_(json), file_(std::move(file)), where_(std::move(where)) {
    if (!json_.is_object()) fail("is not an object");
  }
  [[noreturn]] void fail(const std::string& message) const { throw core::FormatError(file_, where_ + " " + message); }
  [[noreturn]] void refuse(const std::string& what) const { fail(what + " is not supported"); }

  const core::Json* find(std::string_view key) const {
    const auto at = json_.find(key);
    return at == json_.end() || at->is_null() ? nullptr : &*at;
  }
  void only(Names keys) const {
    for (const auto& item : json_.items())
      if (std::find(keys.begin(), keys.end(), item.key()) == keys.end()) refuse("key \"" + item.key() + "\"");
  }
  bool flag(std::string_view key, bool otherwise) const {
    const core::Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) fail(std::string(key) + " is not true or false");
    return value->get<bool>();
  }
  std::string text(std::string_view key) const {
    const core::Json* value = find(key);
    if (value == nullptr || !value->is_string()) fail(std::string(key) + " is not a string");
    return value->get<std::string>();
  }
  std::optional<std::string> optional_text(std::string_view key) const {
    return find(key) == nullptr ? std::nullopt : std::optional(text(key));
  }
  std::string type() const { return text("type"); }
  Part part(std::string_view key) const {
    const core::Json* value = find(key);
    if (value == nullptr) fail("has no \"" + std::string(key) + "\"");
    return {*value, file_, where_ + "." + std::string(key)};
  }
  /// The objects of a list.
  std::vector<Part> list(std::string_view key) const {
    const core::Json* value = find(key);
    if (value == nullptr || !value->is_array()) fail(std::string(key) + " is not a list");
    std::vector<Part> parts;
    for (std::size_t i = 0; i < value->size(); ++i)
      parts.emplace_back((*value)[i], file_, where_ + "." + std::string(key) + "[" + std::to_string(i) + "]");
    return parts;
  }
  const std::string& file() const { return file_; }
  [[noreturn]] void refuse_type(Names known) const {
    fail("of type " + type() + " is not supported (supported: " + listed(known) + ")");
  }

 private:
  const core::Json& json_;
  std::string file_, where_;
};

}  // namespace voronoi::model
