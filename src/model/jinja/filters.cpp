// Filters of Jinja 3.1, and tojson as transformers has it.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "model/jinja/characters.h"
#include "model/jinja/operations.h"
#include "model/jinja/syntax.h"

namespace voronoi::model::jinja {
namespace {

using Filter = Value (*)(const Value&, const Arguments&, Budget&);

Value kept_text(std::string text, Budget& budget) {
  budget.grow(text.size());
  return Value::text(std::move(text));
}

/// The elements, each of them a step.
std::vector<Value> counted(const Value& input, Budget& budget) {
  std::vector<Value> all = elements(input);
  budget.spend(std::ssize(all));
  return all;
}

/// As select and map take them: none of what is false.
std::vector<Value> counted_if_true(const Value& input, Budget& budget) {
  return truth(input) ? counted(input, budget) : std::vector<Value>();
}

/// "a.b.0" of an element.
Value by_path(Value value, const std::string& path) {
  for (std::size_t at = 0; at <= path.size();) {
    const std::size_t end = std::min(path.find('.', at), path.size());
    const std::string part = path.substr(at, end - at);
    std::int64_t index = 0;
    const auto read = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool whole = read.ec == std::errc() && read.ptr == part.data() + part.size();
    value = item_of(value, whole ? Value::integer(index) : Value::text(part));
    at = end + 1;
  }
  return value;
}

Value do_trim(const Value& input, const Arguments& arguments, Budget& budget) {
  arguments.only(1, {"chars"});
  return kept_text(std::string(stripped(to_text(input), arguments.text(0, "chars", ""), true, true)), budget);
}

Value do_title(const Value& input, const Arguments&, Budget& budget) {
  const std::string text = to_text(input);
  std::string out;
  constexpr std::string_view kBefore = "-({[<";
  bool within = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view character = std::string_view(text).substr(at, character_size(text, at));
    out += within ? lowered(character) : raised(character);
    within = !is_space(character_at(text, at)) && kBefore.find(character) == std::string_view::npos;
    at += character.size();
  }
  return kept_text(std::move(out), budget);
}

Value do_join(const Value& input, const Arguments& arguments, Budget& budget) {
  arguments.only(2, {"d", "attribute"});
  const std::string between = arguments.text(0, "d", ""), path = arguments.text(1, "attribute", "");
  std::string out;
  bool first = true;
  for (const Value& item : counted(input, budget)) {
    const std::string text = to_text(path.empty() ? item : by_path(item, path));
    budget.grow(text.size() + between.size());
    if (!first) out += between;
    first = false;
    out += text;
  }
  return Value::text(std::move(out));
}

Value do_replace(const Value& input, const Arguments& arguments, Budget& budget) {
  return call_method(Value::text(to_text(input)), "replace", arguments, budget);
}

Value do_default(const Value& input, const Arguments& arguments, Budget&) {
  arguments.only(2, {"default_value", "boolean"});
  const Value* other = arguments.find(0, "default_value");
  const bool replaces = input.is_undefined() || (arguments.flag(1, "boolean", false) && !truth(input));
  return !replaces ? input : other == nullptr ? Value::text("") : *other;
}

Value do_indent(const Value& input, const Arguments& arguments, Budget& budget) {
  arguments.only(3, {"width", "first", "blank"});
  const Value* width = arguments.find(0, "width");
  const bool first = arguments.flag(1, "first", false), blank = arguments.flag(2, "blank", false);
  const std::int64_t n = width != nullptr && width->string() != nullptr ? 0 : arguments.whole(0, "width", 4);
  if (n > 1000) throw Fault("an indent of more than 1000");
  const std::string indent = width != nullptr && width->string() != nullptr
                                 ? *width->string()
                                 : std::string(static_cast<std::size_t>(std::max<std::int64_t>(n, 0)), ' ');
  std::string out = first ? indent : "";
  bool begins = true;
  const Value lines = call_method(Value::text(to_text(input) + "\n"), "splitlines", {}, budget);
  for (const Value& line : lines.items()->items) {
    if (!begins) out += "\n" + (blank || !line.string()->empty() ? indent : "");
    begins = false;
    out += *line.string();
    budget.grow(line.string()->size() + indent.size());
  }
  return Value::text(std::move(out));
}

Value do_tojson(const Value& input, const Arguments& arguments, Budget& budget) {
  arguments.only(4, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ascii = arguments.flag(0, "ensure_ascii", false);
  if (const Value* indent = arguments.find(1, "indent"); indent != nullptr && !indent->is_none()) {
    const std::int64_t n = arguments.whole(1, "indent", 0);
    if (n < 0 || n > 100) throw Fault("an indent of tojson that is below 0 or above 100");
    style.indent = static_cast<int>(n);
    style.between = ",";
  }
  if (const Value* marks = arguments.find(2, "separators"); marks != nullptr && !marks->is_none()) {
    const std::vector<Value> both = elements(*marks);
    if (both.size() != 2 || both[0].string() == nullptr || both[1].string() == nullptr)
      throw Fault("separators of tojson that are no pair of strings");
    style.between = *both[0].string();
    style.colon = *both[1].string();
  }
  style.sort_keys = arguments.flag(3, "sort_keys", false);
  return kept_text(to_json(input, style), budget);
}

Value do_int(const Value& input, const Arguments& arguments, Budget&) {
  arguments.only(1, {"default"});
  std::int64_t storage = 0;
  if (const std::int64_t* whole = input.whole(storage)) return Value::integer(*whole);
  double number = 0;
  if (const double* given = input.as<double>()) {
    number = *given;
  } else if (const std::string* text = input.string()) {
    const std::string_view digits = stripped(*text, "", true, true);
    std::int64_t value = 0;
    const auto whole = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (whole.ec == std::errc() && whole.ptr == digits.data() + digits.size()) return Value::integer(value);
    const auto real = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (real.ec != std::errc() || real.ptr != digits.data() + digits.size())
      return Value::integer(arguments.whole(0, "default", 0));
  } else {
    return Value::integer(arguments.whole(0, "default", 0));
  }
  if (!(std::abs(number) < 9e18)) return Value::integer(arguments.whole(0, "default", 0));
  return Value::integer(static_cast<std::int64_t>(number));
}

Value do_float(const Value& input, const Arguments& arguments, Budget&) {
  arguments.only(1, {"default"});
  std::int64_t storage = 0;
  if (const std::int64_t* whole = input.whole(storage)) return Value::number(static_cast<double>(*whole));
  if (input.as<double>() != nullptr) return input;
  const Value* other = arguments.find(0, "default");
  if (const std::string* text = input.string()) {
    const std::string_view digits = stripped(*text, "", true, true);
    double value = 0;
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (read.ec == std::errc() && read.ptr == digits.data() + digits.size()) return Value::number(value);
  }
  return other == nullptr ? Value::number(0) : *other;
}

Value do_abs(const Value& input, const Arguments&, Budget&) {
  return truth(input) && less(input, Value::integer(0)) ? negative(input) : input;
}

Value do_first(const Value& input, const Arguments&, Budget& budget) {
  std::vector<Value> all = counted(input, budget);
  return all.empty() ? Value::undefined("first") : all.front();
}

Value do_last(const Value& input, const Arguments&, Budget& budget) {
  std::vector<Value> all = counted(input, budget);
  return all.empty() ? Value::undefined("last") : all.back();
}

Value do_list(const Value& input, const Arguments&, Budget& budget) { return Value::list(counted(input, budget)); }

Value do_reverse(const Value& input, const Arguments&, Budget& budget) {
  std::vector<Value> all = counted(input, budget);
  std::reverse(all.begin(), all.end());
  if (input.string() == nullptr) return Value::list(std::move(all));
  std::string out;
  for (const Value& character : all) out += *character.string();
  return kept_text(std::move(out), budget);
}

Value small(const Value& value, bool as_it_is) {
  return as_it_is || value.string() == nullptr ? value : Value::text(lowered(*value.string()));
}

Value do_sort(const Value& input, const Arguments& arguments, Budget& budget) {
  arguments.only(3, {"reverse", "case_sensitive", "attribute"});
  const std::string path = arguments.text(2, "attribute", "");
  const bool reverse = arguments.flag(0, "reverse", false), exact = arguments.flag(1, "case_sensitive", false);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : counted(input, budget))
    keyed.emplace_back(small(path.empty() ? item : by_path(item, path), exact), item);
  budget.spend(20 * std::ssize(keyed));
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? less(b.first, a.first) : less(a.first, b.first);
  });
  std::vector<Value> out;
  for (auto& [key, item] : keyed) out.push_back(std::move(item));
  return Value::list(std::move(out));
}

Value do_unique(const Value& input, const Arguments& arguments, Budget& budget) {
  arguments.only(1, {"case_sensitive"});
  std::vector<Value> out, keys;
  for (const Value& item : counted(input, budget)) {
    const Value key = small(item, arguments.flag(0, "case_sensitive", false));
    budget.spend(std::ssize(keys));
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& known) { return equal(known, key); })) continue;
    keys.push_back(key);
    out.push_back(item);
  }
  return Value::list(std::move(out));
}

Value extreme(const Value& input, Budget& budget, bool largest) {
  std::vector<Value> all = counted(input, budget);
  if (all.empty()) return Value::undefined(largest ? "max" : "min");
  Value best = all.front();
  for (const Value& item : all)
    if (largest ? less(small(best, false), small(item, false)) : less(small(item, false), small(best, false)))
      best = item;
  return best;
}

Value do_sum(const Value& input, const Arguments& arguments, Budget& budget) {
  arguments.only(2, {"attribute", "start"});
  const std::string path = arguments.text(0, "attribute", "");
  Value sum = arguments.find(1, "start") == nullptr ? Value::integer(0) : *arguments.find(1, "start");
  for (const Value& item : counted(input, budget))
    sum = arithmetic("+", sum, path.empty() ? item : by_path(item, path), budget);
  return sum;
}

Value do_items(const Value& input, const Arguments&, Budget& budget) {
  if (input.is_undefined()) return Value::list({});
  if (input.map() == nullptr) throw Fault("items of " + kind_of(input));
  return call_method(input, "items", {}, budget);
}

Value do_dictsort(const Value& input, const Arguments& arguments, Budget& budget) {
  arguments.only(0);
  if (input.map() == nullptr) throw Fault("dictsort of " + kind_of(input));
  std::vector<Value> pairs = do_items(input, {}, budget).items()->items;
  std::stable_sort(pairs.begin(), pairs.end(), [](const Value& a, const Value& b) {
    return less(small(a.items()->items[0], false), small(b.items()->items[0], false));
  });
  return Value::list(std::move(pairs));
}

Value do_round(const Value& input, const Arguments& arguments, Budget& budget) {
  arguments.only(1, {"precision"});
  const double scale =
      std::pow(10.0, static_cast<double>(std::clamp<std::int64_t>(arguments.whole(0, "precision", 0), -15, 15)));
  const Value real = do_float(input, {}, budget);
  return Value::number(std::nearbyint(*real.as<double>() * scale) / scale);
}

Value do_escape(const Value& input, const Arguments&, Budget& budget) {
  std::string out;
  for (const char c : to_text(input)) switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  return kept_text(std::move(out), budget);
}

Value do_map(const Value& input, const Arguments& arguments, Budget& budget) {
  std::vector<Value> out;
  const Value* attribute = arguments.values.empty() ? arguments.find(0, "attribute") : nullptr;
  const Value* other = arguments.find(arguments.values.size(), "default");
  Arguments rest;
  if (attribute == nullptr) {
    if (!is_filter(arguments.text(0, ""))) throw Fault("the filter '" + arguments.text(0, "") + "' is not supported");
    rest.values.assign(arguments.values.begin() + 1, arguments.values.end());
    rest.named = arguments.named;
  }
  for (const Value& item : counted_if_true(input, budget)) {
    if (attribute == nullptr) {
      out.push_back(filtered(arguments.text(0, ""), item, rest, budget));
      continue;
    }
    Value held = by_path(item, to_text(*attribute));
    out.push_back(held.is_undefined() && other != nullptr ? *other : std::move(held));
  }
  return Value::list(std::move(out));
}

/// select, reject, selectattr, rejectattr.
Value selected(const Value& input, const Arguments& arguments, Budget& budget, bool by_attribute, bool wanted) {
  const std::size_t name_at = by_attribute ? 1 : 0;
  const std::string path = by_attribute ? arguments.text(0, "") : "";
  const std::string name = arguments.values.size() > name_at ? arguments.text(name_at, "") : "";
  if (!name.empty() && !is_test(name)) throw Fault("the test '" + name + "' is not supported");
  Arguments rest;
  if (!name.empty())
    rest.values.assign(arguments.values.begin() + static_cast<std::ptrdiff_t>(name_at) + 1, arguments.values.end());
  std::vector<Value> out;
  for (const Value& item : counted_if_true(input, budget)) {
    const Value of = by_attribute ? by_path(item, path) : item;
    if ((name.empty() ? truth(of) : passes(name, of, rest, budget)) == wanted) out.push_back(item);
  }
  return Value::list(std::move(out));
}

Value do_string(const Value& input, const Arguments&, Budget& budget) { return kept_text(to_text(input), budget); }

const std::map<std::string, Filter, std::less<>>& filters() {
  static const std::map<std::string, Filter, std::less<>> known{
      {"abs", do_abs},
      {"capitalize",
       [](const Value& in, const Arguments&, Budget& budget) { return kept_text(capital(to_text(in)), budget); }},
      {"count", [](const Value& in, const Arguments&, Budget&) { return Value::integer(length(in)); }},
      {"d", do_default},
      {"default", do_default},
      {"dictsort", do_dictsort},
      {"e", do_escape},
      {"escape", do_escape},
      {"first", do_first},
      {"float", do_float},
      {"indent", do_indent},
      {"int", do_int},
      {"items", do_items},
      {"join", do_join},
      {"last", do_last},
      {"length", [](const Value& in, const Arguments&, Budget&) { return Value::integer(length(in)); }},
      {"list", do_list},
      {"lower",
       [](const Value& in, const Arguments&, Budget& budget) { return kept_text(lowered(to_text(in)), budget); }},
      {"map", do_map},
      {"max", [](const Value& in, const Arguments&, Budget& budget) { return extreme(in, budget, true); }},
      {"min", [](const Value& in, const Arguments&, Budget& budget) { return extreme(in, budget, false); }},
      {"reject",
       [](const Value& in, const Arguments& a, Budget& budget) { return selected(in, a, budget, false, false); }},
      {"rejectattr",
       [](const Value& in, const Arguments& a, Budget& budget) { return selected(in, a, budget, true, false); }},
      {"replace", do_replace},
      {"reverse", do_reverse},
      {"round", do_round},
      {"safe", do_string},
      {"select",
       [](const Value& in, const Arguments& a, Budget& budget) { return selected(in, a, budget, false, true); }},
      {"selectattr",
       [](const Value& in, const Arguments& a, Budget& budget) { return selected(in, a, budget, true, true); }},
      {"sort", do_sort},
      {"string", do_string},
      {"sum", do_sum},
      {"title", do_title},
      {"tojson", do_tojson},
      {"trim", do_trim},
      {"unique", do_unique},
      {"upper",
       [](const Value& in, const Arguments&, Budget& budget) { return kept_text(raised(to_text(in)), budget); }},
  };
  return known;
}

}  // namespace

bool is_filter(std::string_view name) { return filters().contains(name); }

Value filtered(const std::string& name, const Value& input, const Arguments& arguments, Budget& budget) {
  budget.spend();
  return filters().at(name)(input, arguments, budget);
}

}  // namespace voronoi::model::jinja
