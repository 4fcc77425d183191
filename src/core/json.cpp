#include "core/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/printable.h"
#include "core/stand_in.h"

namespace voronoi::core {
namespace {

/// Builds the value. nlohmann's own builder looks every new key of an ordered object up by linear search, quadratic in
/// a vocabulary's size, keeps the last of duplicates and does not bound depth (destroying a deep value recurses).
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view file, int max_depth, Json& root) : file_(file), max_depth_(max_depth), root_(root) {}

  bool null() override { return add(Json(nullptr)); }
  bool boolean(bool value) override { return add(Json(value)); }
  bool number_integer(number_integer_t value) override { return add(Json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return add(Json(value)); }
  bool number_float(number_float_t value, const string_t&) override { return add(Json(value)); }
  bool string(string_t& value) override { return add(Json(std::move(value))); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return enter(Json::object()); }
  bool start_array(std::size_t) override { return enter(Json::array()); }
  bool end_array() override { return leave(); }
  bool key(string_t& name) override {
    key_ = std::move(name);
    return true;
  }
  bool end_object() override {
    std::vector<std::string_view> names;
    const auto& object = open_.back()->get_ref<const Json::object_t&>();
    names.reserve(object.size());
    for (const auto& [name, value] : object) names.emplace_back(name);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end())
      throw FormatError(file_, "JSON: key " + quote_text(*twice) + " stands twice in one object");
    return leave();
  }
  bool parse_error(std::size_t position, const std::string& last_token,
                   const nlohmann::detail::exception& error) override {
    // The parser's text quotes what it read, which may be most of the file, and begins with its own name.
    std::string_view reason = error.what();
    if (const std::size_t name_end = reason.find("] ");
        reason.starts_with("[json.") && name_end != std::string_view::npos)
      reason.remove_prefix(name_end + 2);
    if (last_token.size() > 60 || reason.size() > 300)
      throw FormatError(file_, position, "not valid JSON: syntax error near " + quote_text(last_token));
    throw FormatError(file_, position, "not valid JSON: " + printable(reason));
  }

 private:
  bool enter(Json&& container) {
    if (std::cmp_greater_equal(open_.size(), max_depth_))
      throw FormatError(file_, "JSON is nested deeper than " + std::to_string(max_depth_) + " levels");
    add(std::move(container));
    open_.push_back(last_);
    return true;
  }
  bool leave() {
    open_.pop_back();
    return true;
  }
  /// Only the innermost open container grows, so pointers to the outer ones stay valid.
  bool add(Json&& value) {
    if (open_.empty()) {
      root_ = std::move(value);
      last_ = &root_;
    } else if (open_.back()->is_array()) {
      auto& array = open_.back()->get_ref<Json::array_t&>();
      last_ = &array.emplace_back(std::move(value));
    } else {
      auto& object = open_.back()->get_ref<Json::object_t&>();
      using Entries = Json::object_t::Container;
      last_ = &static_cast<Entries&>(object).emplace_back(std::move(key_), std::move(value)).second;
    }
    return true;
  }

  std::string_view file_;
  int max_depth_;
  Json& root_;
  Json* last_ = nullptr;
  std::vector<Json*> open_;
  std::string key_;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view file, int max_depth) {
  refuse_stand_in(text, file);
  if (text.starts_with("\xEF\xBB\xBF"))
    throw FormatError(file, 0, "not valid JSON: begins with a byte order mark; save it as UTF-8 without one");
  Json root;
  Builder builder(file, max_depth, root);
  Json::sax_parse(text, &builder);
  return root;
}

Json read_json_file(const std::string& path, int max_depth) {
  constexpr std::size_t kMaxBytes = std::size_t{1} << 31;
  return parse_json(read_text_file(path, kMaxBytes), path, max_depth);
}

Json seal_json(Json object) {
  object["sha256"] = sha256(object.dump());
  return object;
}

Json read_sealed_json(const std::string& path, std::string_view remedy) {
  const auto damaged = [&](std::string_view what) { return FormatError(path, fmt::format("{}; {}", what, remedy)); };
  Json object;
  try {
    object = read_json_file(path);
  } catch (const FormatError& error) {
    throw damaged(fmt::format("is damaged ({})", error.what()));
  }
  const auto seal = object.is_object() ? object.find("sha256") : object.end();
  if (seal == object.end() || !seal->is_string()) throw damaged("is damaged (it has no checksum)");
  const auto digest = seal->get<std::string>();
  object.erase("sha256");
  if (sha256(object.dump()) != digest) throw damaged("is damaged (checksum)");
  return object;
}

std::int64_t whole_number(const Json& value) {
  const bool fits =
      value.is_number_unsigned() ? std::in_range<std::int64_t>(value.get<std::uint64_t>()) : value.is_number_integer();
  if (!fits) throw Json::type_error::create(302, "is no whole number of 64 bits", &value);
  return value.get<std::int64_t>();
}

std::int64_t whole_number_or(const Json& value, const char* key, std::int64_t otherwise) {
  const auto found = value.find(key);
  return found == value.end() ? otherwise : whole_number(*found);
}

}  // namespace voronoi::core
