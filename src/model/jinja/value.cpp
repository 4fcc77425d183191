#include "model/jinja/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "model/jinja/characters.h"

namespace voronoi::model::jinja {
namespace {

/// Of a boolean, integer or float.
std::optional<double> as_number(const Value& value) {
  std::int64_t storage = 0;
  if (const std::int64_t* whole = value.whole(storage)) return static_cast<double>(*whole);
  if (const double* number = value.as<double>()) return *number;
  return std::nullopt;
}

int deepest(int depth) {
  if (depth > kMostValueDepth) throw Fault(fmt::format("has values more than {} deep", kMostValueDepth));
  return depth;
}

std::string python_quoted(std::string_view text) {
  const char quote = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    if (c == quote || c == '\\')
      out += fmt::format("\\{}", c);
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    else
      out += c;
  }
  return out + quote;
}

std::string json_text(std::string_view text, bool ascii) {
  std::string out = "\"";
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = character_size(text, at);
    const char c = text[at];
    constexpr std::string_view kNamed = "\"\\\n\r\t\b\f", kNames = "\"\\nrtbf";
    if (const std::size_t named = kNamed.find(c); named != std::string_view::npos) {
      out += '\\';
      out += kNames[named];
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    } else if (size == 1 || !ascii) {
      out += text.substr(at, size);
    } else if (const char32_t point = character_at(text, at); point < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(point));
    } else {
      const auto rest = static_cast<unsigned>(point) - 0x10000;
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
    }
    at += size;
  }
  return out + "\"";
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  void write(const Value& value) {
    if (value.is_none())
      out_ += "null";
    else if (const bool* flag = value.as<bool>())
      out_ += *flag ? "true" : "false";
    else if (const std::int64_t* whole = value.as<std::int64_t>())
      out_ += std::to_string(*whole);
    else if (const double* number = value.as<double>())
      out_ += std::isnan(*number)   ? "NaN"
              : std::isinf(*number) ? (*number > 0 ? "Infinity" : "-Infinity")
                                    : float_text(*number);
    else if (const std::string* text = value.string())
      out_ += json_text(*text, style_.ascii);
    else if (const List* list = value.items())
      write_all(list->items, '[', ']', [&](const Value& item) { write(item); });
    else if (const Dict* dict = value.map())
      write_dict(*dict);
    else
      throw Fault("tojson: " + kind_of(value) + " is no JSON");
  }
  std::string take() { return std::move(out_); }

 private:
  template <class Items, class Write>
  void write_all(const Items& items, char open, char close, const Write& one) {
    out_ += open;
    ++level_;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.indent < 0 || !style_.between.ends_with(' ') ? style_.between : ",";
      new_line();
      one(items[i]);
    }
    --level_;
    if (!items.empty()) new_line();
    out_ += close;
  }
  void write_dict(const Dict& dict) {
    auto items = dict.items;
    if (style_.sort_keys)
      std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    write_all(items, '{', '}', [&](const auto& item) {
      out_ += json_text(item.first, style_.ascii) + style_.colon;
      write(item.second);
    });
  }
  void new_line() {
    if (style_.indent < 0) return;
    out_ += '\n';
    out_.append(static_cast<std::size_t>(style_.indent) * level_, ' ');
  }

  const JsonStyle& style_;
  std::string out_;
  std::size_t level_ = 0;
};

}  // namespace

const Value* Dict::find(std::string_view key) const {
  const auto found = std::find_if(items.begin(), items.end(), [&](const auto& item) { return item.first == key; });
  return found == items.end() ? nullptr : &found->second;
}

Value Value::list(std::vector<Value> items, bool tuple) {
  auto list = std::make_shared<List>();
  for (const Value& item : items) list->depth = std::max(list->depth, item.depth() + 1);
  deepest(list->depth);
  list->items = std::move(items);
  list->tuple = tuple;
  return Value(Content(std::shared_ptr<const List>(std::move(list))));
}

Value Value::dict(std::vector<std::pair<std::string, Value>> items) {
  auto dict = std::make_shared<Dict>();
  for (const auto& [key, item] : items) dict->depth = std::max(dict->depth, item.depth() + 1);
  deepest(dict->depth);
  dict->items = std::move(items);
  return Value(Content(std::shared_ptr<const Dict>(std::move(dict))));
}

const std::string* Value::string() const {
  const Text* text = as<Text>();
  return text == nullptr ? nullptr : text->get();
}

const List* Value::items() const {
  const auto* list = as<std::shared_ptr<const List>>();
  return list == nullptr ? nullptr : list->get();
}

const Dict* Value::map() const {
  const auto* dict = as<std::shared_ptr<const Dict>>();
  return dict == nullptr ? nullptr : dict->get();
}

const std::int64_t* Value::whole(std::int64_t& storage) const {
  if (const bool* flag = as<bool>()) {
    storage = *flag ? 1 : 0;
    return &storage;
  }
  return as<std::int64_t>();
}

int Value::depth() const {
  if (const List* list = items()) return list->depth;
  if (const Dict* dict = map()) return dict->depth;
  if (const auto* loop = as<std::shared_ptr<const Loop>>()) return (*loop)->items->depth + 1;
  if (const Method* method = as<Method>()) return method->self->depth() + 1;
  return 1;
}

bool truth(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (const auto number = as_number(value)) return *number != 0;
  if (const std::string* text = value.string()) return !text->empty();
  if (const List* list = value.items()) return !list->items.empty();
  if (const Dict* dict = value.map()) return !dict->items.empty();
  return true;
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string to_repr(const Value& value) {
  const std::string* text = value.string();
  return text == nullptr ? to_text(value) : python_quoted(*text);
}

std::string to_text(const Value& value) {
  if (value.is_undefined()) return "";
  if (value.is_none()) return "None";
  if (const bool* flag = value.as<bool>()) return *flag ? "True" : "False";
  if (const std::int64_t* whole = value.as<std::int64_t>()) return std::to_string(*whole);
  if (const double* number = value.as<double>()) return float_text(*number);
  if (const std::string* text = value.string()) return *text;
  if (const List* list = value.items()) {
    std::string out(1, list->tuple ? '(' : '[');
    for (std::size_t i = 0; i < list->items.size(); ++i) out += (i > 0 ? ", " : "") + to_repr(list->items[i]);
    if (list->tuple && list->items.size() == 1) out += ',';
    return out + (list->tuple ? ')' : ']');
  }
  if (const Dict* dict = value.map()) {
    std::string out = "{";
    for (const auto& [key, item] : dict->items)
      out += (out.size() > 1 ? ", " : "") + python_quoted(key) + ": " + to_repr(item);
    return out + "}";
  }
  throw Fault(kind_of(value) + " is printed, or made text of");
}

std::string kind_of(const Value& value) {
  if (const Undefined* undefined = value.as<Undefined>())
    return undefined->name.empty() ? "what is undefined" : "'" + undefined->name + "', which is undefined,";
  static constexpr std::string_view kKinds[] = {"",         "none",       "a boolean", "an integer",  "a float",
                                                "a string", "a list",     "a dict",    "a namespace", "loop",
                                                "a macro",  "a function", "a method"};
  return std::string(kKinds[value.content().index()]);
}

bool equal(const Value& a, const Value& b) {
  if (const auto x = as_number(a), y = as_number(b); x && y) {
    std::int64_t p = 0, q = 0;
    const std::int64_t *whole = a.whole(p), *other = b.whole(q);
    return whole != nullptr && other != nullptr ? *whole == *other : *x == *y;
  }
  if (const std::string* x = a.string(), *y = b.string(); x != nullptr && y != nullptr) return *x == *y;
  if (const List* x = a.items(), *y = b.items(); x != nullptr && y != nullptr)
    return x->tuple == y->tuple &&
           std::equal(x->items.begin(), x->items.end(), y->items.begin(), y->items.end(), equal);
  if (const Dict* x = a.map(), *y = b.map(); x != nullptr && y != nullptr)
    return x->items.size() == y->items.size() && std::all_of(x->items.begin(), x->items.end(), [&](const auto& item) {
             const Value* other = y->find(item.first);
             return other != nullptr && equal(item.second, *other);
           });
  if (const auto* x = a.as<Namespace*>(), *y = b.as<Namespace*>(); x != nullptr && y != nullptr) return *x == *y;
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

bool less(const Value& a, const Value& b) {
  if (const auto x = as_number(a), y = as_number(b); x && y) {
    std::int64_t p = 0, q = 0;
    const std::int64_t *whole = a.whole(p), *other = b.whole(q);
    return whole != nullptr && other != nullptr ? *whole < *other : *x < *y;
  }
  if (const std::string* x = a.string(), *y = b.string(); x != nullptr && y != nullptr) return *x < *y;
  if (const List* x = a.items(), *y = b.items(); x != nullptr && y != nullptr)
    return std::lexicographical_compare(x->items.begin(), x->items.end(), y->items.begin(), y->items.end(), less);
  throw Fault(kind_of(a) + " and " + kind_of(b) + " have no order");
}

std::vector<Value> elements(const Value& value) {
  std::vector<Value> out;
  if (value.is_undefined()) return out;
  if (const List* list = value.items()) return list->items;
  if (const Dict* dict = value.map()) {
    for (const auto& [key, item] : dict->items) out.push_back(Value::text(key));
    return out;
  }
  if (const std::string* text = value.string()) {
    for (std::size_t at = 0; at < text->size(); at += character_size(*text, at))
      out.push_back(Value::text(text->substr(at, character_size(*text, at))));
    return out;
  }
  throw Fault(kind_of(value) + " is gone through, and has no elements");
}

std::int64_t length(const Value& value) {
  if (value.is_undefined()) return 0;
  if (const List* list = value.items()) return std::ssize(list->items);
  if (const Dict* dict = value.map()) return std::ssize(dict->items);
  if (const std::string* text = value.string()) return count_characters(*text);
  throw Fault(kind_of(value) + " has no length");
}

std::string to_json(const Value& value, const JsonStyle& style) {
  JsonWriter writer(style);
  writer.write(value);
  return writer.take();
}

Value from_json(const core::Json& json) {
  if (json.is_null()) return {};
  if (json.is_boolean()) return Value::boolean(json.get<bool>());
  if (json.is_number_integer()) {
    if (json.is_number_unsigned() && json.get<std::uint64_t>() > INT64_MAX) return Value::number(json.get<double>());
    return Value::integer(json.get<std::int64_t>());
  }
  if (json.is_number()) return Value::number(json.get<double>());
  if (json.is_string()) return Value::text(json.get<std::string>());
  if (json.is_array()) {
    std::vector<Value> items;
    for (const core::Json& item : json) items.push_back(from_json(item));
    return Value::list(std::move(items));
  }
  std::vector<std::pair<std::string, Value>> items;
  for (const auto& item : json.items()) items.emplace_back(item.key(), from_json(item.value()));
  return Value::dict(std::move(items));
}

}  // namespace voronoi::model::jinja
