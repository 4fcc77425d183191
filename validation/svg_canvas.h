// What the pictures of svg.h are drawn with: one <svg> under way, and scales with their ticks.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "validation/svg.h"

namespace voronoi::validation {

constexpr double kFontSize = 13;

/// About how wide a text is, in the picture's units: enough to leave room for it.
double text_width(std::string_view text);
/// The text, or its beginning with "..." where it is wider.
std::string fitted(const std::string& text, double width);
/// A number for people: at most `digits` that count, thousands apart, powers of ten beyond a million and below 0.0001.
std::string number_text(double value, int digits = 4);

enum class Anchor { start, middle, end };

class Canvas {
 public:
  Canvas(double width, double height, const PictureText& text);
  void text(double x, double y, std::string_view words, Anchor anchor = Anchor::start, std::string_view classes = "");
  /// Upwards along the left edge.
  void upright_text(double x, double y, std::string_view words);
  void line(double x1, double y1, double x2, double y2, std::string_view classes);
  void polyline(const std::vector<std::pair<double, double>>& points, int style);
  /// opacity: of the filling, 0 to 1.
  void rect(double x, double y, double width, double height, std::string_view classes, std::string_view tooltip = "",
            double opacity = 1);
  /// A shape that is the style's own: circle, square, triangle, diamond, ...
  void mark(double x, double y, int style, std::string_view tooltip = "");
  /// Upwards, its tip at `y`.
  void arrow(double x, double y, int style, std::string_view tooltip = "");
  /// Names with their marks in rows below `y`; returns the height they take.
  double legend(double x, double y, double width, const std::vector<std::pair<int, std::string>>& names);
  void grow(double height) { height_ = height; }
  /// One <svg> of a page.
  std::string finish() const;
  /// A file, which has the style within.
  std::string finish_file() const;

  static std::string style_class(int style);

 private:
  void titled(std::string element, std::string_view tooltip);
  void shape(const std::vector<std::pair<double, double>>& points, int style, std::string_view tooltip);
  std::string element(std::string_view attributes, std::string_view content) const;
  double width_, height_;
  PictureText text_;
  std::string body_;
};

/// Values to places of the picture.
class Scale {
 public:
  /// low < high, above 0 where logarithmic; `from` and `to`: the places of both.
  Scale(double low, double high, bool logarithmic, double from, double to);
  double at(double value) const;
  struct Tick {
    double value;
    std::string label;
  };
  /// About so many round numbers within.
  std::vector<Tick> ticks(int wanted) const;

 private:
  double low_, high_;
  bool logarithmic_;
  double from_, to_;
};

}  // namespace voronoi::validation
