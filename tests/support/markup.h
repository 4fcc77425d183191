// A strict look at markup: what it takes is well-formed, so that a browser has nothing to guess.
#pragma once

#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>
#include <vector>

namespace voronoi::test {

struct Element {
  std::string name, attributes;
  std::size_t begin = 0;  ///< of its tag in the text
};

struct Markup {
  std::vector<Element> elements;  ///< in order
  std::string problem;            ///< the first one; empty: none
};

/// Elements must be closed in turn (meta and what ends in "/>" aside), attributes be name="value", each once, and `<`,
/// `&` stand for themselves nowhere but in <style>.
inline Markup parse_markup(std::string_view text) {
  Markup markup;
  std::vector<std::string> open;
  const auto fail = [&](const std::string& what, std::size_t at) {
    if (markup.problem.empty()) markup.problem = what + " at \"" + std::string(text.substr(at, 60)) + "\"";
  };
  for (std::size_t at = 0; at < text.size() && markup.problem.empty();) {
    const bool raw = !open.empty() && open.back() == "style";
    if (text[at] == '&' && !raw) {
      const std::size_t end = text.find(';', at);
      const std::string_view name = text.substr(at, end == std::string_view::npos ? 0 : end + 1 - at);
      if (name != "&amp;" && name != "&lt;" && name != "&gt;" && name != "&quot;" && name != "&#39;")
        fail("a bare &", at);
      ++at;
      continue;
    }
    if (text[at] != '<' || (raw && !text.substr(at).starts_with("</style>"))) {
      ++at;
      continue;
    }
    if (text.substr(at).starts_with("<!DOCTYPE html>")) {
      at += 15;
      continue;
    }
    const std::size_t end = text.find('>', at);
    if (end == std::string_view::npos) {
      fail("a tag without end", at);
      break;
    }
    std::string tag(text.substr(at + 1, end - at - 1));
    if (tag.starts_with('/')) {
      if (open.empty() || open.back() != tag.substr(1)) {
        fail("closes what is not open", at);
        break;
      }
      open.pop_back();
      at = end + 1;
      continue;
    }
    const bool alone = tag.ends_with('/');
    if (alone) tag.pop_back();
    const std::size_t space = std::min(tag.find(' '), tag.size());
    Element element{tag.substr(0, space), tag.substr(space), at};
    if (element.name.empty() ||
        !std::all_of(element.name.begin(), element.name.end(), [](unsigned char c) { return std::isalnum(c) != 0; }))
      fail("a bare <", at);
    std::vector<std::string> names;
    for (std::string_view rest = element.attributes; !rest.empty();) {
      const std::size_t equals = rest.find("=\"");
      const std::size_t close = equals == std::string_view::npos ? equals : rest.find('"', equals + 2);
      if (rest.front() != ' ' || close == std::string_view::npos) {
        fail("an attribute that is not name=\"value\"", at);
        break;
      }
      const std::string name(rest.substr(1, equals - 1));
      if (name.empty() || name.find_first_of(" '\"<") != std::string::npos ||
          std::find(names.begin(), names.end(), name) != names.end())
        fail("a bad or repeated attribute", at);
      names.push_back(name);
      rest.remove_prefix(close + 1);
    }
    if (!alone && element.name != "meta") open.push_back(element.name);
    markup.elements.push_back(std::move(element));
    at = end + 1;
  }
  if (markup.problem.empty() && !open.empty()) markup.problem = "<" + open.back() + "> is not closed";
  return markup;
}

inline std::size_t count_elements(const Markup& markup, std::string_view name) {
  return static_cast<std::size_t>(std::count_if(markup.elements.begin(), markup.elements.end(),
                                                [&](const Element& element) { return element.name == name; }));
}

}  // namespace voronoi::test
