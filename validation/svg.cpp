#include "validation/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "validation/svg_canvas.h"

namespace voronoi::validation {
namespace {

constexpr double kWidth = 480;  // of pictures that stand two beside one another

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void take(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
  /// With some room at both ends.
  Range padded(bool logarithmic) const {
    if (logarithmic) {
      const double room = low == high ? 1.5 : std::pow(high / low, 0.06);
      return {low / room, high * room};
    }
    const double room = low == high ? std::max(std::abs(low) * 0.1, 1e-6) : 0.06 * (high - low);
    return {low - room, high + room};
  }
};

bool can_stand(double value, const Axis& axis) { return std::isfinite(value) && (!axis.logarithmic || value > 0); }

double widest(const std::vector<std::string>& texts) {
  double width = 0;
  for (const std::string& text : texts) width = std::max(width, text_width(text));
  return width;
}

std::vector<XySeries> drawable(const XyPlot& plot) {
  std::vector<XySeries> all;
  for (XySeries series : plot.series) {
    std::erase_if(series.points,
                  [&](const XyPoint& point) { return !can_stand(point.x, plot.x) || !can_stand(point.y, plot.y); });
    std::stable_sort(series.points.begin(), series.points.end(),
                     [](const XyPoint& a, const XyPoint& b) { return a.x < b.x; });
    if (!series.points.empty()) all.push_back(std::move(series));
  }
  return all;
}

/// Grid, ticks and words of both axes around the rectangle.
void draw_axes(Canvas& canvas, const XyPlot& plot, const Scale& x, const Scale& y, double left, double right,
               double top, double bottom) {
  for (const Scale::Tick& tick : y.ticks(6)) {
    canvas.line(left, y.at(tick.value), right, y.at(tick.value), "grid");
    canvas.text(left - 6, y.at(tick.value) + 4.5, tick.label, Anchor::end, "soft");
  }
  for (const Scale::Tick& tick : x.ticks(6)) {
    canvas.line(x.at(tick.value), bottom, x.at(tick.value), bottom + 4, "axis");
    canvas.text(x.at(tick.value), bottom + 18, tick.label, Anchor::middle, "soft");
  }
  canvas.line(left, bottom, right, bottom, "axis");
  canvas.text((left + right) / 2, bottom + 37, plot.x.label, Anchor::middle, "soft");
  canvas.upright_text(13, (top + bottom) / 2, plot.y.label);
}

void draw_error(Canvas& canvas, double x, double low, double high, int style) {
  const std::string classes = Canvas::style_class(style) + " error";
  canvas.line(x, low, x, high, classes);
  canvas.line(x - 4, low, x + 4, low, classes);
  canvas.line(x - 4, high, x + 4, high, classes);
}

std::string tooltip_of(const XySeries& series, const XyPoint& point) {
  if (!point.tooltip.empty()) return point.tooltip;
  return fmt::format("{}: {} at {}", series.name, number_text(point.y), number_text(point.x));
}

/// The line up to `top`, where it leaves the plot, and from there.
void draw_line(Canvas& canvas, const std::vector<std::pair<double, double>>& points, double top, int style) {
  std::vector<std::pair<double, double>> part;
  const auto finish = [&] {
    if (part.size() > 1) canvas.polyline(part, style);
    part.clear();
  };
  for (std::size_t i = 0; i < points.size(); ++i) {
    const bool inside = points[i].second >= top;
    if (i > 0 && inside != (points[i - 1].second >= top)) {
      const auto &from = points[i - 1], &to = points[i];
      const double share = (top - from.second) / (to.second - from.second);
      part.emplace_back(from.first + share * (to.first - from.first), top);
    }
    if (inside)
      part.push_back(points[i]);
    else
      finish();
  }
  finish();
}

/// What lies above the plot: an arrow each in rows over its upper edge, so that their words do not meet.
class Beyond {
 public:
  Beyond(const XyPlot& plot, const std::vector<XySeries>& all) {
    if (!plot.highest) return;
    for (const XySeries& series : all)
      for (const XyPoint& point : series.points)
        if (point.y > *plot.highest)
          arrows_.push_back({&series, &point, fmt::format("{} {}", series.name, number_text(point.y, 6))});
  }
  bool empty() const { return arrows_.empty(); }
  /// Finds the rows and returns their height.
  double place(const Scale& x, double left, double right) {
    std::vector<std::vector<std::pair<double, double>>> taken;
    for (Arrow& arrow : arrows_) {
      const double width = text_width(fitted(arrow.words, right - left - kSide)), at = x.at(arrow.point->x);
      arrow.is_left = at + kSide + width > right;
      const std::pair<double, double> span =
          arrow.is_left ? std::pair(at - kSide - width, at + kSide) : std::pair(at - kSide, at + kSide + width);
      const auto meets = [&](const auto& other) { return span.first < other.second && other.first < span.second; };
      while (arrow.row < taken.size() && std::any_of(taken[arrow.row].begin(), taken[arrow.row].end(), meets))
        ++arrow.row;
      taken.resize(std::max(taken.size(), arrow.row + 1));
      taken[arrow.row].push_back(span);
    }
    return kRow * static_cast<double>(taken.size());
  }
  void draw(Canvas& canvas, const Scale& x, double top, double left, double right) const {
    for (const Arrow& arrow : arrows_) {
      const double at = x.at(arrow.point->x), y = top - kRow * static_cast<double>(arrow.row + 1);
      canvas.arrow(at, y, arrow.series->style, tooltip_of(*arrow.series, *arrow.point));
      canvas.text(arrow.is_left ? at - kSide : at + kSide, y + 11, fitted(arrow.words, right - left - kSide),
                  arrow.is_left ? Anchor::end : Anchor::start);
    }
  }

 private:
  static constexpr double kRow = 18, kSide = 8;
  struct Arrow {
    const XySeries* series;
    const XyPoint* point;
    std::string words;
    std::size_t row = 0;
    bool is_left = false;  ///< of its words: no room at its right
  };
  std::vector<Arrow> arrows_;
};

/// Returns where the picture ends; `begin` where it is empty.
double draw_on(Canvas& canvas, const XyPlot& plot, double begin) {
  const std::vector<XySeries> all = drawable(plot);
  if (all.empty()) return begin;
  Beyond beyond(plot, all);
  const double highest = plot.highest.value_or(std::numeric_limits<double>::infinity());
  Range x_range, y_range;
  for (const XySeries& series : all)
    for (const XyPoint& point : series.points) {
      x_range.take(point.x);
      if (point.y > highest) continue;
      for (const double value : {point.y, point.y - point.error, std::min(point.y + point.error, highest)})
        if (can_stand(value, plot.y)) y_range.take(value);
    }
  const bool has_level = plot.level && can_stand(*plot.level, plot.y);
  if (has_level) y_range.take(*plot.level);
  if (y_range.empty()) y_range.take(highest);
  const Range xs = x_range.padded(plot.x.logarithmic);
  Range ys = y_range.padded(plot.y.logarithmic);
  if (!beyond.empty()) ys.high = std::max(highest, y_range.high);

  std::vector<std::pair<int, std::string>> names;
  for (const XySeries& series : all) names.emplace_back(series.style, series.name);
  if (has_level) names.emplace_back(0, plot.level_name);
  const double under_legend = begin + canvas.legend(6, begin + 2, plot.width - 12, names) + 14;
  std::vector<std::string> labels;
  for (const Scale::Tick& tick : Scale(ys.low, ys.high, plot.y.logarithmic, 0, 1).ticks(6))
    labels.push_back(tick.label);
  const double left = 30 + widest(labels), right = plot.width - 14;
  const Scale x(xs.low, xs.high, plot.x.logarithmic, left, right);
  const double top = under_legend + beyond.place(x, left, right), bottom = top + plot.height;
  const Scale y(ys.low, ys.high, plot.y.logarithmic, bottom, top);
  draw_axes(canvas, plot, x, y, left, right, top, bottom);
  if (has_level) canvas.line(left, y.at(*plot.level), right, y.at(*plot.level), "level");
  for (const XySeries& series : all) {
    std::vector<std::pair<double, double>> line;
    for (const XyPoint& point : series.points) line.emplace_back(x.at(point.x), y.at(point.y));
    if (series.line) draw_line(canvas, line, top, series.style);
  }
  for (const XySeries& series : all)
    for (const XyPoint& point : series.points) {
      if (point.y > highest) continue;
      const double at = x.at(point.x), low = point.y - point.error;
      if (point.error > 0)
        draw_error(canvas, at, can_stand(low, plot.y) ? y.at(low) : bottom,
                   y.at(std::min(point.y + point.error, highest)), series.style);
      canvas.mark(at, y.at(point.y), series.style, tooltip_of(series, point));
    }
  beyond.draw(canvas, x, top, left, right);
  return bottom + 46;
}

}  // namespace

std::string draw(const XyPlot& plot) {
  Canvas canvas(plot.width, 0, plot.text);
  const double end = draw_on(canvas, plot, 0);
  canvas.grow(end);
  return end > 0 ? canvas.finish() : "";
}

std::string draw_file(const PictureText& text, const std::vector<XyPlot>& plots) {
  constexpr double kTitle = 30;
  double width = 0;
  for (const XyPlot& plot : plots) width = std::max(width, plot.width);
  Canvas canvas(width, 0, text);
  double end = 0;
  for (const XyPlot& plot : plots) {
    const double begin = end + kTitle, ended = draw_on(canvas, plot, begin);
    if (ended == begin) continue;
    canvas.text(13, begin - 9, fitted(plot.text.title, plot.width - 26));
    end = ended;
  }
  canvas.grow(end);
  return end > 0 ? canvas.finish_file() : "";
}

std::string draw(const HeatMap& map) {
  double most = 0;
  for (const auto& row : map.values)
    for (const std::optional<double>& value : row)
      if (value && std::isfinite(*value)) most = std::max(most, *value);
  if (most <= 0 || map.columns.empty()) return "";
  // By the root, so that neither a few large values nor many small ones hide the others.
  const auto share = [&](double value) { return std::sqrt(std::max(0.0, value) / most); };
  constexpr double kPale = 0.05, kRow = 24, kMostCell = 64, kLeastCell = 9, kWide = 1140;
  const auto n = static_cast<double>(map.columns.size());
  const double left = std::min(220.0, widest(map.rows) + 12);
  const double cell = std::clamp((kWide - left - 8) / n, kLeastCell, kMostCell);
  const double top = 8, bottom = top + kRow * static_cast<double>(map.rows.size());
  const double width = std::max(left + n * cell + 8, left + 330.0);
  Canvas canvas(width, bottom + 76, map.text);
  for (std::size_t r = 0; r < map.rows.size(); ++r) {
    const double y = top + kRow * static_cast<double>(r);
    canvas.text(left - 8, y + kRow / 2 + 4.5, fitted(map.rows[r], left - 10), Anchor::end);
    for (std::size_t c = 0; c < map.columns.size(); ++c) {
      const double x = left + cell * static_cast<double>(c);
      const std::optional<double>& value = map.values[r][c];
      const std::string where = fmt::format("{}, {} {}", map.rows[r], map.column_label, map.columns[c]);
      if (value && std::isfinite(*value)) {
        const std::string text = number_text(*value, 3);
        canvas.rect(x + 0.5, y + 0.5, cell - 1, kRow - 1, "heat", where + ": " + text,
                    kPale + (1 - kPale) * share(*value));
        if (cell >= 46)
          canvas.text(x + cell / 2, y + kRow / 2 + 4, text, Anchor::middle, share(*value) > 0.55 ? "inside" : "small");
      } else {
        canvas.rect(x + 0.5, y + 0.5, cell - 1, kRow - 1, "none", where + ": none");
        canvas.line(x + 2, y + 2, x + cell - 2, y + kRow - 2, "axis");
      }
    }
  }
  const auto step = static_cast<std::size_t>(std::ceil((widest(map.columns) + 8) / cell));
  for (std::size_t c = 0; c < map.columns.size(); c += step)
    canvas.text(left + cell * (static_cast<double>(c) + 0.5), bottom + 16, map.columns[c], Anchor::middle, "soft");
  canvas.text(left, bottom + 34, map.column_label, Anchor::start, "soft");
  // The scale, with its ends and middle in numbers.
  constexpr int kSteps = 24;
  constexpr double kStep = 9, kLength = kStep * kSteps;
  const double y = bottom + 44;
  for (int i = 0; i < kSteps; ++i)
    canvas.rect(left + kStep * i, y, kStep, 12, "heat flat", "", kPale + (1 - kPale) * (i + 0.5) / kSteps);
  canvas.text(left, y + 26, "0", Anchor::start, "soft");
  canvas.text(left + kLength / 2, y + 26, number_text(most / 4, 2), Anchor::middle, "soft");
  canvas.text(left + kLength, y + 26, number_text(most, 3), Anchor::end, "soft");
  return canvas.finish();
}

std::string draw(const BarChart& chart) {
  Range range;
  range.take(0);
  std::vector<std::string> texts;
  for (const auto& category : chart.bars)
    for (const Bar& bar : category) {
      texts.push_back(bar.text);
      if (bar.value && std::isfinite(*bar.value)) range.take(*bar.value + bar.error);
    }
  if (range.high <= 0) return "";
  constexpr double kBar = 15, kGap = 4, kBetween = 14;
  const double left = std::min(190.0, widest(chart.categories) + 14);
  const double right = kWidth - std::min(190.0, widest(texts) + 20);
  const Scale x(0, range.high, false, left, right);
  Canvas canvas(kWidth, 0, chart.text);
  double y = 8;
  if (chart.series.size() > 1) {
    std::vector<std::pair<int, std::string>> names;
    for (std::size_t s = 0; s < chart.series.size(); ++s) names.emplace_back(chart.styles[s], chart.series[s]);
    y += canvas.legend(6, 0, kWidth - 12, names) + 4;
  }
  const double top = y;
  for (std::size_t c = 0; c < chart.categories.size(); ++c) {
    const double height = static_cast<double>(chart.series.size()) * (kBar + kGap) - kGap;
    canvas.text(left - 8, y + height / 2 + 4.5, fitted(chart.categories[c], left - 10), Anchor::end);
    for (std::size_t s = 0; s < chart.series.size(); ++s, y += kBar + kGap) {
      const Bar& bar = chart.bars[c][s];
      if (!bar.value || !std::isfinite(*bar.value)) {
        canvas.text(left + 4, y + kBar - 3, bar.text.empty() ? "-" : bar.text, Anchor::start, "soft");
        continue;
      }
      const double end = x.at(std::max(0.0, *bar.value));
      const int style = chart.styles[s];
      canvas.rect(left, y, end - left, kBar, Canvas::style_class(style) + " flat",
                  fmt::format("{}, {}: {}", chart.categories[c], chart.series[s], bar.text), 0.55);
      const double middle = y + kBar / 2, high = x.at(std::max(0.0, *bar.value + bar.error));
      if (bar.error > 0) {
        const double low = x.at(std::max(0.0, *bar.value - bar.error));
        const std::string classes = Canvas::style_class(style) + " error";
        canvas.line(low, middle, high, middle, classes);
        canvas.line(low, middle - 4, low, middle + 4, classes);
        canvas.line(high, middle - 4, high, middle + 4, classes);
      }
      if (chart.series.size() > 1) canvas.mark(end, middle, style);
      canvas.text(high + 10, y + kBar - 3, bar.text);
    }
    y += kBetween - kGap;
  }
  canvas.line(left, top - 2, left, y - kBetween + kGap + 4, "axis");
  canvas.grow(y);
  return canvas.finish();
}

std::string draw(const TimeLine& line) {
  Range range;
  range.take(0);
  for (const TimeSpan& span : line.spans) range.take(span.end);
  if (line.spans.empty() || line.lanes.empty() || range.high <= 0) return "";
  constexpr double kWide = 1140;
  const auto n = static_cast<double>(line.lanes.size());
  const double lane = std::clamp(600 / n, 4.0, 26.0), left = std::min(120.0, widest(line.lanes) + 14);
  const double unit = range.high > 2 * 3600 ? 3600 : range.high > 120 ? 60 : 1;
  Canvas canvas(kWide, 0, line.text);
  const double top = canvas.legend(left, 0, kWide - left, line.legend) + (line.cuts.empty() ? 8 : 24);
  const double bottom = top + lane * n;
  const Scale x(0, range.high / unit, false, left, kWide - 12);
  canvas.grow(bottom + 44);
  const auto label_step = static_cast<std::size_t>(std::ceil(kFontSize / lane));
  for (std::size_t i = 0; i < line.lanes.size(); ++i) {
    const double y = top + lane * static_cast<double>(i);
    canvas.rect(left, y + 1, kWide - 12 - left, lane - 2, "lane");
    if (i % label_step == 0)
      canvas.text(left - 8, y + lane / 2 + 4.5, fitted(line.lanes[i], left - 10), Anchor::end, "soft");
  }
  for (const TimeSpan& span : line.spans) {
    const double y = top + lane * static_cast<double>(span.lane);
    const double from = x.at(span.begin / unit), to = x.at(span.end / unit);
    canvas.rect(from, y + 2, std::max(0.4, to - from), lane - 4, Canvas::style_class(span.style) + " span",
                span.tooltip);
    if (!span.word.empty() && lane >= 16 && text_width(span.word) + 4 <= to - from)
      canvas.text((from + to) / 2, y + lane / 2 + 4, span.word, Anchor::middle, "inside");
  }
  for (const auto& [time, word] : line.cuts) {
    const double at = x.at(time / unit);
    canvas.line(at, top - 16, at, bottom, "cut");
    canvas.text(at + 4, top - 6, word, Anchor::start, "soft small");
  }
  for (const Scale::Tick& tick : x.ticks(8)) {
    canvas.line(x.at(tick.value), bottom, x.at(tick.value), bottom + 4, "axis");
    canvas.text(x.at(tick.value), bottom + 18, tick.label, Anchor::middle, "soft");
  }
  canvas.text((left + kWide - 12) / 2, bottom + 36,
              unit == 3600 ? "hours of work"
              : unit == 60 ? "minutes of work"
                           : "seconds of work",
              Anchor::middle, "soft");
  return canvas.finish();
}

}  // namespace voronoi::validation
