// Texts of tasks made from a row's fields: templates and the filters in them, as data.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/json.h"

namespace voronoi::validation {

/// Steps that a text goes through. Spaces are Python's, and so is `capitalise`, up to letters that become several.
class TextFilter {
 public:
  /// A step or an array of them: "strip", "capitalise" (first character in title case, the others in lower case),
  /// {"replace": [from, to]} (from left to right, once), {"cut": [first, last]} (from each `first` to the next `last`
  /// on its line, both included), {"before": text}, {"after": text} (of its first place, where it must be). Throws
  /// FormatError naming `place`.
  TextFilter(const core::Json& steps, const std::string& place);
  /// Throws FormatError naming `place` (of the row) where a step cannot be done.
  std::string operator()(std::string text, const std::string& place) const;

 private:
  struct Step {
    enum class Kind { strip, capitalise, replace, cut, before, after } kind;
    std::string first, second;
  };
  std::vector<Step> steps_;
};

/// Filters by name; "strip" and "capitalise" are always there.
using TextFilters = std::map<std::string, TextFilter, std::less<>>;

/// Values that templates name beside the row's fields.
using ExtraFields = std::map<std::string, std::string, std::less<>>;

/// A text with places: "{field}", "{field.inner}", "{field|filter|filter}"; "{{" and "}}" are braces.
class TextTemplate {
 public:
  /// Throws FormatError naming `place`.
  TextTemplate(std::string_view text, const TextFilters& filters, const std::string& place);
  /// Strings as they are, numbers and booleans as JSON writes them. Throws FormatError naming `place` (of the row) for
  /// a field that is missing or of another kind.
  std::string fill(const core::Json& row, const ExtraFields& extra, const std::string& place) const;
  /// Of a template that is one place alone, whose field is an array: the text of each element. Throws likewise.
  std::vector<std::string> fill_each(const core::Json& row, const std::string& place) const;
  bool is_one_place() const;

 private:
  struct Place {
    std::string path;
    std::vector<TextFilter> filters;
  };
  std::string filtered(const Place& at, const core::Json& value, const std::string& place) const;

  std::vector<std::variant<std::string, Place>> parts_;
};

/// row[a][b] of "a.b". Throws FormatError naming `place` where it is missing.
const core::Json& field_of(const core::Json& row, std::string_view path, const std::string& place);

/// Without white space at both ends, or the end alone, as Python's strip and rstrip.
std::string_view stripped(std::string_view text);
std::string_view stripped_end(std::string_view text);
/// The first line without its end; both are taken off the text.
std::string_view take_line(std::string_view& text);
/// Code points of valid UTF-8.
std::int64_t count_characters(std::string_view text);

}  // namespace voronoi::validation
