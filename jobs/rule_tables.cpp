#include "jobs/rule_tables.h"

#include <fmt/format.h>

#include <cstdint>

namespace voronoi::jobs {
namespace {

constexpr const char *kHeader = "[[rules]]", *kMatch = "match", *kBlanks = " \t\r";

std::string trimmed(const std::string& text) {
  const std::size_t first = text.find_first_not_of(kBlanks);
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

/// Up to a # outside of quotes.
std::string without_comment(const std::string& line) {
  char quote = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (quote == 0 && line[i] == '#') return line.substr(0, i);
    if (line[i] == '"' || line[i] == '\'') quote = quote == 0 ? line[i] : quote == line[i] ? char{0} : quote;
  }
  return line;
}

std::string unquoted(const std::string& value) {
  const bool quoted =
      value.size() >= 2 && (value.front() == '"' || value.front() == '\'') && value.back() == value.front();
  return quoted ? value.substr(1, value.size() - 2) : value;
}

/// A table as it is read line by line.
struct Draft {
  std::string place, pattern, values;
};

/// Returns the problem of a line of the table, or an empty string.
std::string take_line(const std::string& line, Draft& table) {
  const std::size_t equals = line.find('=');
  const std::string name = trimmed(line.substr(0, equals));
  if (equals == std::string::npos || name.empty() || name.find_first_of(kBlanks) != std::string::npos)
    return "must be NAME = VALUE, not '" + line + "'";
  const std::string value = unquoted(trimmed(line.substr(equals + 1)));
  if (value.empty() || value.find_first_of(kBlanks) != std::string::npos)
    return name + ": must be one word, not '" + value + "'";
  if (name != kMatch) {
    table.values += " " + name + "=" + value;
    return {};
  }
  if (!table.pattern.empty()) return name + ": given more than once; a table has one pattern";
  table.pattern = value;
  return {};
}

}  // namespace

ConfigText read_config(std::istream& file) {
  ConfigText text;
  std::vector<Draft> drafts;
  std::int64_t number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    const std::string content = trimmed(without_comment(line));
    if (content == kHeader) {
      drafts.push_back({fmt::format("{} {} (line {})", kHeader, drafts.size() + 1, number), "", ""});
    } else if (drafts.empty()) {
      text.options += line + "\n";
    } else if (content.starts_with('[')) {
      text.problems.push_back(
          fmt::format("line {}: {}: is no table; behind options there are tables {} alone", number, content, kHeader));
    } else if (!content.empty()) {
      if (const std::string problem = take_line(content, drafts.back()); !problem.empty())
        text.problems.push_back(drafts.back().place + ": " + problem);
    }
  }
  for (const Draft& draft : drafts) {
    if (draft.pattern.empty())
      text.problems.push_back(draft.place + ": match: is missing; give the pattern of the linears' names");
    else
      text.tables.push_back({draft.place, draft.pattern + draft.values});
  }
  return text;
}

}  // namespace voronoi::jobs
