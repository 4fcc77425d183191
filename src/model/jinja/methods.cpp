// Methods of strings, lists and dicts, as Python has them.
#include <algorithm>
#include <array>
#include <limits>

#include "model/jinja/characters.h"
#include "model/jinja/operations.h"

namespace voronoi::model::jinja {
namespace {

using namespace std::string_view_literals;

constexpr std::array kOfStrings{"capitalize"sv, "count"sv, "endswith"sv, "find"sv,   "isalpha"sv,      "isdigit"sv,
                                "isspace"sv,    "join"sv,  "lower"sv,    "lstrip"sv, "removeprefix"sv, "removesuffix"sv,
                                "replace"sv,    "rfind"sv, "rsplit"sv,   "rstrip"sv, "split"sv,        "splitlines"sv,
                                "startswith"sv, "strip"sv, "title"sv,    "upper"sv};
constexpr std::array kOfDicts{"get"sv, "items"sv, "keys"sv, "values"sv};
constexpr std::array kOfLists{"count"sv, "index"sv};
/// That Python has and a sandbox forbids, since they change what they are called on.
constexpr std::array kForbidden{"append"sv, "extend"sv,  "insert"sv, "pop"sv,
                                "remove"sv, "reverse"sv, "sort"sv,   "update"sv};
constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();

template <class Names>
bool has(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// As str.title(): each letter is large behind what is none.
std::string titled(std::string_view text) {
  std::string out;
  bool within = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view character = text.substr(at, character_size(text, at));
    out += within ? lowered(character) : raised(character);
    within = is_letter(character_at(text, at));
    at += character.size();
  }
  return out;
}

/// Parts between white space, at most `most` cuts, from the left.
std::vector<std::string> words_of(std::string_view text, std::int64_t most) {
  std::vector<std::string> words;
  for (text = stripped(text, "", true, false); !text.empty(); text = stripped(text, "", true, false)) {
    std::size_t end = 0;
    if (most == 0) end = text.size();
    while (end < text.size() && most > 0 && !is_space(character_at(text, end))) end += character_size(text, end);
    words.emplace_back(text.substr(0, end));
    text.remove_prefix(most == 0 ? text.size() : end);
    --most;
  }
  return words;
}

std::vector<std::string> words_from_right(std::string_view text, std::int64_t most) {
  std::vector<std::string> words = words_of(text, kAll);
  if (std::ssize(words) <= most) return words;
  // What is left of the last `most` words stays one.
  std::string_view rest = stripped(text, "", false, true);
  std::vector<std::string> last(words.end() - static_cast<std::ptrdiff_t>(most), words.end());
  for (auto word = last.rbegin(); word != last.rend(); ++word)
    rest = stripped(rest.substr(0, rest.size() - word->size()), "", false, true);
  last.insert(last.begin(), std::string(rest));
  return last;
}

std::vector<std::string> parts_between(std::string_view text, std::string_view mark, std::int64_t most,
                                       bool from_right) {
  std::vector<std::string> parts;
  for (; most > 0; --most) {
    const std::size_t at = from_right ? text.rfind(mark) : text.find(mark);
    if (at == std::string_view::npos) break;
    parts.emplace_back(from_right ? text.substr(at + mark.size()) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(at + mark.size());
  }
  parts.emplace_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

Value split(const std::string& text, const Arguments& arguments, bool from_right, Budget& budget) {
  arguments.only(2, {"sep", "maxsplit"});
  const Value* mark = arguments.find(0, "sep");
  std::int64_t most = arguments.whole(1, "maxsplit", -1);
  if (most < 0) most = kAll;
  std::vector<std::string> parts;
  if (mark == nullptr || mark->is_none()) {
    parts = from_right ? words_from_right(text, most) : words_of(text, most);
  } else {
    const std::string between = arguments.text(0, "sep");
    if (between.empty()) throw Fault("split by nothing");
    parts = parts_between(text, between, most, from_right);
  }
  budget.spend(std::ssize(parts));
  budget.grow(text.size());
  std::vector<Value> values;
  for (std::string& part : parts) values.push_back(Value::text(std::move(part)));
  return Value::list(std::move(values));
}

Value lines_of(std::string_view text, bool with_ends) {
  std::vector<Value> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of("\n\r\v\f"), text.size());
    const std::size_t mark = end == text.size() ? 0 : text.substr(end).starts_with("\r\n") ? 2 : 1;
    lines.push_back(Value::text(std::string(text.substr(0, with_ends ? end + mark : end))));
    text.remove_prefix(end + mark);
  }
  return Value::list(std::move(lines));
}

/// Whether the text begins, or ends, with the argument or one of its strings.
bool has_end(const std::string& text, const Arguments& arguments, bool at_begin) {
  arguments.only(1);
  const Value* wanted = arguments.find(0, "");
  if (wanted == nullptr) throw Fault("an argument is missing");
  const auto fits = [&](const Value& end) {
    if (end.string() == nullptr) throw Fault(kind_of(end) + " is looked for at the end of a string");
    return at_begin ? text.starts_with(*end.string()) : text.ends_with(*end.string());
  };
  if (const List* ends = wanted->items()) return std::any_of(ends->items.begin(), ends->items.end(), fits);
  return fits(*wanted);
}

template <class Test>
bool all_characters(std::string_view text, const Test& test) {
  for (std::size_t at = 0; at < text.size(); at += character_size(text, at))
    if (!test(character_at(text, at))) return false;
  return !text.empty();
}

std::int64_t count_of(std::string_view text, std::string_view part) {
  if (part.empty()) return count_characters(text) + 1;
  std::int64_t n = 0;
  for (std::size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

std::string replaced(const std::string& text, const Arguments& arguments, Budget& budget) {
  arguments.only(3, {"old", "new", "count"});
  const std::string old = arguments.text(0, "old"), fresh = arguments.text(1, "new");
  std::int64_t most = arguments.whole(2, "count", -1);
  if (most < 0) most = kAll;
  std::string out;
  std::size_t at = 0;
  for (; most > 0; --most) {
    const std::size_t found = text.find(old, at);
    if (found == std::string::npos) break;
    out.append(text, at, found - at);
    out += fresh;
    budget.grow(found - at + fresh.size());
    at = found + old.size();
    if (!old.empty()) continue;
    if (at == text.size()) return out;
    const std::size_t size = character_size(text, at);  // between all characters
    out.append(text, at, size);
    at += size;
  }
  out.append(text, at);
  budget.grow(text.size() - at);
  return out;
}

Value of_string(const std::string& text, const std::string& name, const Arguments& arguments, Budget& budget) {
  budget.spend(1 + std::ssize(text) / 64);
  if (name == "split" || name == "rsplit") return split(text, arguments, name == "rsplit", budget);
  if (name == "startswith" || name == "endswith") return Value::boolean(has_end(text, arguments, name == "startswith"));
  budget.grow(text.size());
  if (name == "replace") return Value::text(replaced(text, arguments, budget));
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    arguments.only(1);
    return Value::text(std::string(stripped(text, arguments.text(0, "", ""), name != "rstrip", name != "lstrip")));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string end = arguments.text(0, "");
    if (name == "removeprefix") return Value::text(text.starts_with(end) ? text.substr(end.size()) : text);
    return Value::text(text.ends_with(end) ? text.substr(0, text.size() - end.size()) : text);
  }
  if (name == "find" || name == "rfind") {
    arguments.only(1);
    const std::string part = arguments.text(0, "");
    const std::size_t at = name == "find" ? text.find(part) : text.rfind(part);
    return Value::integer(at == std::string::npos ? -1 : count_characters(std::string_view(text).substr(0, at)));
  }
  if (name == "count") {
    arguments.only(1);
    return Value::integer(count_of(text, arguments.text(0, "")));
  }
  if (name == "join") {
    arguments.only(1);
    const Value* all = arguments.find(0, "");
    if (all == nullptr) throw Fault("an argument is missing");
    std::string out;
    bool first = true;
    for (const Value& item : elements(*all)) {
      if (item.string() == nullptr) throw Fault(kind_of(item) + " is joined as a string");
      budget.grow(item.string()->size() + text.size());
      if (!first) out += text;
      first = false;
      out += *item.string();
    }
    return Value::text(std::move(out));
  }
  if (name == "splitlines") {
    arguments.only(1, {"keepends"});
    return lines_of(text, arguments.flag(0, "keepends", false));
  }
  arguments.only(0);
  if (name == "isdigit") return Value::boolean(all_characters(text, [](char32_t c) { return c >= '0' && c <= '9'; }));
  if (name == "isalpha") return Value::boolean(all_characters(text, is_letter));
  if (name == "isspace") return Value::boolean(all_characters(text, is_space));
  if (name == "lower") return Value::text(lowered(text));
  if (name == "upper") return Value::text(raised(text));
  if (name == "title") return Value::text(titled(text));
  return Value::text(capital(text));
}

Value of_dict(const Dict& dict, const std::string& name, const Arguments& arguments, Budget& budget) {
  if (name == "get") {
    arguments.only(2);
    const Value* key = arguments.find(0, "");
    if (key == nullptr) throw Fault("an argument is missing");
    const Value *held = key->string() == nullptr ? nullptr : dict.find(*key->string()), *other = arguments.find(1, "");
    return held != nullptr ? *held : other != nullptr ? *other : Value();
  }
  arguments.only(0);
  budget.spend(std::ssize(dict.items));
  std::vector<Value> out;
  for (const auto& [key, item] : dict.items)
    out.push_back(name == "keys"     ? Value::text(key)
                  : name == "values" ? item
                                     : Value::list({Value::text(key), item}, true));
  return Value::list(std::move(out));
}

Value of_list(const List& list, const std::string& name, const Arguments& arguments) {
  arguments.only(1);
  const Value* wanted = arguments.find(0, "");
  if (wanted == nullptr) throw Fault("an argument is missing");
  if (name == "count")
    return Value::integer(
        std::count_if(list.items.begin(), list.items.end(), [&](const Value& item) { return equal(item, *wanted); }));
  const auto found =
      std::find_if(list.items.begin(), list.items.end(), [&](const Value& item) { return equal(item, *wanted); });
  if (found == list.items.end()) throw Fault("index() of what is not in the list");
  return Value::integer(found - list.items.begin());
}

}  // namespace

bool is_method(const Value& self, std::string_view name) {
  if (self.string() != nullptr) return has(kOfStrings, name);
  if (self.map() != nullptr) return has(kOfDicts, name);
  if (self.items() == nullptr) return false;
  if (has(kForbidden, name))
    throw Fault("the method '" + std::string(name) + "' would change a list, which the sandbox of templates forbids");
  return has(kOfLists, name);
}

Value call_method(const Value& self, const std::string& name, const Arguments& arguments, Budget& budget) {
  if (const std::string* text = self.string()) return of_string(*text, name, arguments, budget);
  if (const Dict* dict = self.map()) return of_dict(*dict, name, arguments, budget);
  budget.spend(std::ssize(self.items()->items));
  return of_list(*self.items(), name, arguments);
}

}  // namespace voronoi::model::jinja
