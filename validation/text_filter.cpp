#include "validation/text_filter.h"

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "model/unicode.h"

namespace voronoi::validation {
namespace {

using core::FormatError;

/// Python's str.isspace of a character: White_Space and the separators of ASCII.
bool is_space(char32_t c) { return model::is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

/// Where the last character begins.
std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80) --at;
  return at;
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t found = std::min(text.find(from, at), text.size());
    out += text.substr(at, found - at);
    if (found < text.size()) out += to;
    at = std::min(found + from.size(), text.size());
  }
  return out;
}

/// The regular expression first.*?last, deleted.
std::string cut(std::string_view text, std::string_view first, std::string_view last) {
  std::string out;
  while (!text.empty()) {
    const std::size_t begin = text.find(first);
    if (begin == std::string_view::npos) break;
    const std::size_t inner = begin + first.size(), end = text.find(last, inner);
    if (end == std::string_view::npos) break;
    if (text.substr(inner, end - inner).find('\n') != std::string_view::npos) {
      out += text.substr(0, begin + 1);
      text.remove_prefix(begin + 1);
      continue;
    }
    out += text.substr(0, begin);
    text.remove_prefix(end + last.size());
  }
  return out.append(text);
}

std::string text_of_json(const core::Json& value, const std::string& path, const std::string& place) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number() || value.is_boolean()) return value.dump();
  throw FormatError(place, "its field " + core::quote_text(path) + " is neither text nor a number");
}

}  // namespace

std::string_view stripped_end(std::string_view text) {
  while (!text.empty()) {
    const std::size_t at = last_character(text);
    const std::size_t length = model::utf8_length(text, at);
    if (length == 0 || !is_space(model::utf8_code_point(text, at, length))) break;
    text = text.substr(0, at);
  }
  return text;
}

std::string_view stripped(std::string_view text) {
  text = stripped_end(text);
  while (!text.empty()) {
    const std::size_t length = model::utf8_length(text, 0);
    if (length == 0 || !is_space(model::utf8_code_point(text, 0, length))) break;
    text.remove_prefix(length);
  }
  return text;
}

std::string_view take_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

std::int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80; });
}

TextFilter::TextFilter(const core::Json& steps, const std::string& place) {
  const auto fail = [&](const core::Json& step) {
    throw FormatError(place, "the filter step " + core::quote_text(step.dump()) +
                                 " is none of \"strip\", \"capitalise\", {\"replace\": [from, to]}, {\"cut\": [first, "
                                 "last]}, {\"before\": text}, {\"after\": text}; the texts may not be empty");
  };
  const auto add = [&](const core::Json& step) {
    if (step == "strip") {
      steps_.push_back({Step::Kind::strip, {}, {}});
    } else if (step == "capitalise") {
      steps_.push_back({Step::Kind::capitalise, {}, {}});
    } else if (step.is_object() && step.size() == 1) {
      const std::string kind = step.begin().key();
      const core::Json& value = step.begin().value();
      const bool two = value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string();
      const bool single = value.is_string();
      if ((kind == "replace" || kind == "cut") && two) {
        steps_.push_back({kind == "cut" ? Step::Kind::cut : Step::Kind::replace, value[0], value[1]});
        if (steps_.back().first.empty() || (kind == "cut" && steps_.back().second.empty())) fail(step);
      } else if ((kind == "before" || kind == "after") && single) {
        steps_.push_back({kind == "before" ? Step::Kind::before : Step::Kind::after, value, {}});
        if (steps_.back().first.empty()) fail(step);
      } else {
        fail(step);
      }
    } else {
      fail(step);
    }
  };
  if (!steps.is_array()) add(steps);
  if (steps.is_array())
    for (const core::Json& step : steps) add(step);
}

std::string TextFilter::operator()(std::string text, const std::string& place) const {
  for (const Step& step : steps_) {
    const auto found = [&] {
      const std::size_t at = text.find(step.first);
      if (at == std::string::npos)
        throw FormatError(place, core::quote_text(text) + " has no " + core::quote_text(step.first) + " in it");
      return at;
    };
    switch (step.kind) {
      case Step::Kind::strip:
        text = std::string(stripped(text));
        break;
      case Step::Kind::capitalise:
        text = model::capitalised(text);
        break;
      case Step::Kind::replace:
        text = replaced(text, step.first, step.second);
        break;
      case Step::Kind::cut:
        text = cut(text, step.first, step.second);
        break;
      case Step::Kind::before:
        text.resize(found());
        break;
      case Step::Kind::after:
        text.erase(0, found() + step.first.size());
        break;
    }
  }
  return text;
}

TextTemplate::TextTemplate(std::string_view text, const TextFilters& filters, const std::string& place) {
  const auto literal = [&](char c) {
    if (parts_.empty() || !std::holds_alternative<std::string>(parts_.back())) parts_.emplace_back(std::string());
    std::get<std::string>(parts_.back()) += c;
  };
  const auto fail = [&](const std::string& what) {
    throw FormatError(place, "the template " + core::quote_text(text) + " " + what);
  };
  for (std::size_t at = 0; at < text.size(); ++at) {
    if ((text[at] == '{' || text[at] == '}') && at + 1 < text.size() && text[at + 1] == text[at]) {
      literal(text[at++]);
    } else if (text[at] == '}') {
      fail("has a } without its {; a brace of the text is written twice");
    } else if (text[at] != '{') {
      literal(text[at]);
    } else {
      const std::size_t end = text.find('}', at);
      if (end == std::string_view::npos) fail("has a { without its }; a brace of the text is written twice");
      std::string_view inner = text.substr(at + 1, end - at - 1);
      Place here;
      here.path = inner.substr(0, inner.find('|'));
      if (here.path.empty()) fail("has a place without the name of a field");
      while (inner.find('|') != std::string_view::npos) {
        inner.remove_prefix(inner.find('|') + 1);
        const std::string_view name = inner.substr(0, inner.find('|'));
        const auto filter = filters.find(name);
        if (filter == filters.end()) {
          if (name != "strip" && name != "capitalise")
            fail("names the filter " + core::quote_text(name) + ", which is not among its \"filters\"");
          here.filters.emplace_back(core::Json(std::string(name)), place);
        } else {
          here.filters.push_back(filter->second);
        }
      }
      parts_.emplace_back(std::move(here));
      at = end;
    }
  }
}

std::string TextTemplate::filtered(const Place& at, const core::Json& value, const std::string& place) const {
  std::string text = text_of_json(value, at.path, place);
  for (const TextFilter& filter : at.filters) text = filter(std::move(text), place);
  return text;
}

std::string TextTemplate::fill(const core::Json& row, const ExtraFields& extra, const std::string& place) const {
  std::string out;
  for (const auto& part : parts_) {
    if (const auto* literal = std::get_if<std::string>(&part)) {
      out += *literal;
      continue;
    }
    const Place& at = std::get<Place>(part);
    const auto given = extra.find(at.path);
    out += filtered(at, given != extra.end() ? core::Json(given->second) : field_of(row, at.path, place), place);
  }
  return out;
}

bool TextTemplate::is_one_place() const { return parts_.size() == 1 && std::holds_alternative<Place>(parts_.front()); }

std::vector<std::string> TextTemplate::fill_each(const core::Json& row, const std::string& place) const {
  VORONOI_REQUIRE(is_one_place(), "a template of one place");
  const Place& at = std::get<Place>(parts_.front());
  const core::Json& values = field_of(row, at.path, place);
  if (!values.is_array()) throw FormatError(place, "its field " + core::quote_text(at.path) + " is no array of texts");
  std::vector<std::string> texts;
  for (const core::Json& value : values) texts.push_back(filtered(at, value, place));
  return texts;
}

const core::Json& field_of(const core::Json& row, std::string_view path, const std::string& place) {
  const core::Json* at = &row;
  for (std::string_view rest = path;; rest.remove_prefix(rest.find('.') + 1)) {
    const std::string key(rest.substr(0, rest.find('.')));
    if (!at->is_object() || !at->contains(key)) throw FormatError(place, "has no field " + core::quote_text(path));
    at = &at->at(key);
    if (rest.find('.') == std::string_view::npos) return *at;
  }
}

}  // namespace voronoi::validation
