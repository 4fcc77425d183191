// Parts of a page: tables, and pictures that stand above theirs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace voronoi::validation {

/// Columns of words stand left, those of numbers right.
struct Column {
  std::string name;
  bool number = true;
};

struct HtmlTable {
  std::string caption;
  std::vector<Column> columns;
  std::vector<std::vector<std::string>> rows;  ///< text, not markup
};

/// <p> of a text.
std::string paragraph(std::string_view text, std::string_view classes = "");
std::string heading(int level, std::string_view text, std::string_view id = "");
/// In a box of its own that scrolls where the page is narrow.
std::string table(const HtmlTable& content);
/// The same behind its caption, to be opened.
std::string folded(const HtmlTable& content);
/// A picture with the table of its numbers behind it; the open table alone where the picture is empty. `wide`: over the
/// whole page.
std::string figure(const std::string& picture, const HtmlTable& content, bool wide = false);
/// The whole page: style, and `body`.
std::string page(std::string_view title, const std::string& body);

}  // namespace voronoi::validation
