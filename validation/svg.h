// Pictures of figures as inline SVG: numbers in, markup out. Colours are variables of the page's style (picture_style),
// so that light and dark both work; what has a colour also has a shape, a word or a tooltip, and the page puts the
// numbers in a table beside it. Values that are not finite, or not above 0 on a logarithmic axis, are left out.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace voronoi::validation {

/// What stands between tags or in quotes: the five characters of markup as entities; control characters and invalid
/// UTF-8 as \xHH.
std::string escape_markup(std::string_view text);

/// The style sheet of all pictures: variables for light and dark, and the classes that pictures use.
std::string_view picture_style();

/// A word for screen readers and a sentence for those who do not see the picture.
struct PictureText {
  std::string title, description;
};

struct Axis {
  std::string label;
  bool logarithmic = false;
};

struct XyPoint {
  double x = 0, y = 0;
  double error = 0;     ///< half the length of the bar on y; 0: none
  std::string tooltip;  ///< empty: the numbers
};

struct XySeries {
  std::string name;
  int style = 1;  ///< colour and shape of the marks
  bool line = true;
  std::vector<XyPoint> points;  ///< in any order
};

/// Points and lines over two axes, with a legend; `level`: a dashed line across, with its word.
struct XyPlot {
  PictureText text;
  Axis x, y;
  std::vector<XySeries> series;
  std::optional<double> level;
  std::string level_name;
  std::optional<double> highest;  ///< the upper end of y: what lies above is an arrow there, with its name and number
  double width = 480, height = 240;  /// of the picture; of the rectangle between the axes
};

/// Operators over blocks, from pale to full colour.
struct HeatMap {
  PictureText text;
  std::string column_label;
  std::vector<std::string> rows, columns;
  std::vector<std::vector<std::optional<double>>> values;  ///< [rows][columns], from 0; nothing: crossed out
};

struct Bar {
  std::optional<double> value;  ///< nothing: "-"
  double error = 0;
  std::string text;  ///< the value as it is written at the bar's end
};

/// Horizontal bars from 0, a group a category and a bar a series.
struct BarChart {
  PictureText text;
  std::vector<std::string> series, categories;
  std::vector<int> styles;             ///< of the series
  std::vector<std::vector<Bar>> bars;  ///< [categories][series]
};

struct TimeSpan {
  std::size_t lane = 0;
  double begin = 0, end = 0;  ///< seconds
  int style = 1;
  std::string word, tooltip;  ///< word: written into the span where it fits
};

/// Lanes over time; `cuts`: upright lines with a word.
struct TimeLine {
  PictureText text;
  std::vector<std::string> lanes;
  std::vector<TimeSpan> spans;
  std::vector<std::pair<double, std::string>> cuts;
  std::vector<std::pair<int, std::string>> legend;  ///< style and name
};

// Each is one <svg>; empty where nothing can be drawn.
std::string draw(const XyPlot& plot);
std::string draw(const HeatMap& map);
std::string draw(const BarChart& chart);
std::string draw(const TimeLine& line);

/// Plots one below the other, each under its title, as an SVG file of their own: with the style, for light and dark,
/// and a background. Empty where nothing can be drawn.
std::string draw_file(const PictureText& text, const std::vector<XyPlot>& plots);

}  // namespace voronoi::validation
