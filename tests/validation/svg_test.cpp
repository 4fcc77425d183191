#include "validation/svg.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <sstream>

#include "support/markup.h"
#include "validation/svg_canvas.h"

namespace voronoi::validation {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr const char* kHostileText = "</text><script>alert('x')</script>\"&\x01\xff";

test::Markup well_formed_picture(const std::string& picture) {
  const test::Markup markup = test::parse_markup(picture);
  EXPECT_EQ(markup.problem, "") << picture;
  EXPECT_EQ(test::count_elements(markup, "svg"), 1U);
  EXPECT_EQ(test::count_elements(markup, "desc"), 1U);
  EXPECT_THAT(picture, HasSubstr("role=\"img\""));
  EXPECT_THAT(picture, Not(HasSubstr("<script")));
  EXPECT_THAT(picture, Not(HasSubstr("nan")));
  EXPECT_THAT(picture, Not(HasSubstr("inf")));
  return markup;
}

XyPlot xy_plot() {
  XyPlot plot;
  plot.text = {kHostileText, kHostileText};
  plot.x = {kHostileText, false};
  plot.y = {kHostileText, true};
  plot.series = {{kHostileText, 1, true, {{3, 20, 1, ""}, {2, 80, 2, kHostileText}}},
                 {"other", 2, false, {{2.5, 40, 0, ""}}}};
  return plot;
}

TEST(Svg, TextIsEscaped) {
  EXPECT_EQ(escape_markup("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  EXPECT_EQ(escape_markup("\x01\xff\xc3\xa9"), "\\x01\\xff\xc3\xa9");
}

TEST(Svg, NumbersAreForPeople) {
  EXPECT_EQ(number_text(0), "0");
  EXPECT_EQ(number_text(2.0775462), "2.078");
  EXPECT_EQ(number_text(-0.5), "-0.5");
  EXPECT_EQ(number_text(0.0012345, 3), "0.00123");
  EXPECT_EQ(number_text(1234), "1234");
  EXPECT_EQ(number_text(123456, 15), "123\u202f456");
  EXPECT_EQ(number_text(1e7), "1e7");
  EXPECT_EQ(number_text(2.5e-7), "2.5e-7");
  EXPECT_EQ(number_text(std::numeric_limits<double>::infinity()), "infinite");
  EXPECT_EQ(number_text(std::nan("")), "not a number");
}

std::vector<std::string> labels(const Scale& scale, int wanted) {
  std::vector<std::string> labels;
  for (const Scale::Tick& tick : scale.ticks(wanted)) labels.push_back(tick.label);
  return labels;
}

TEST(Svg, TicksAreRoundNumbersWithin) {
  EXPECT_THAT(labels({0, 10, false, 0, 1}, 5), ElementsAre("0", "2", "4", "6", "8", "10"));
  EXPECT_THAT(labels({1.9, 4.2, false, 0, 1}, 5), ElementsAre("2", "2.5", "3", "3.5", "4"));
  EXPECT_THAT(labels({-0.3, 0.3, false, 0, 1}, 3), ElementsAre("-0.2", "0", "0.2"));
  EXPECT_THAT(labels({15, 200, true, 0, 1}, 5), ElementsAre("20", "50", "100", "200"));
  EXPECT_THAT(labels({10, 1e6, true, 0, 1}, 6),
              ElementsAre("10", "100", "1000", "10\u202f000", "100\u202f000", "1\u202f000\u202f000"));
  EXPECT_THAT(labels({20, 21, true, 0, 1}, 4), ElementsAre("20", "20.25", "20.5", "20.75", "21"));
}

TEST(Svg, ScalesMeetTheirEnds) {
  const Scale logarithmic(10, 1000, true, 100, 300);
  EXPECT_DOUBLE_EQ(logarithmic.at(10), 100);
  EXPECT_DOUBLE_EQ(logarithmic.at(100), 200);
  EXPECT_DOUBLE_EQ(logarithmic.at(1000), 300);
  EXPECT_DOUBLE_EQ(Scale(0, 4, false, 50, 10).at(1), 40);
}

TEST(Svg, PointsHaveMarksOfTheirOwnShapeAndErrorBars) {
  const std::string picture = draw(xy_plot());
  const test::Markup markup = well_formed_picture(picture);
  EXPECT_EQ(test::count_elements(markup, "circle"), 3U) << "two points, one in the legend";
  EXPECT_EQ(test::count_elements(markup, "rect") + test::count_elements(markup, "polygon"), 2U)
      << "a square, and its legend";
  EXPECT_EQ(test::count_elements(markup, "polyline"), 1U) << "of two points or more, in the order of x";
}

TEST(Svg, MarksOfTenMethodsAreToldApart) {
  std::set<std::string> marks;
  for (int style = 1; style <= 10; ++style) {
    Canvas canvas(10, 10, {});
    canvas.mark(5, 5, style);
    marks.insert(canvas.finish());
  }
  EXPECT_EQ(marks.size(), 10U);
}

TEST(Svg, WhatCannotStandOnAnAxisIsLeftOut) {
  XyPlot plot = xy_plot();
  plot.series[0].points.push_back({3, -1, 0, ""});
  plot.series[0].points.push_back({std::nan(""), 20, 0, ""});
  plot.series[0].points.push_back({3, std::numeric_limits<double>::infinity(), 0, ""});
  EXPECT_EQ(draw(plot), draw(xy_plot()));
  plot.series = {{"none", 1, true, {{1, 0, 0, ""}}}};
  EXPECT_EQ(draw(plot), "");
}

XyPlot capped_plot() {
  XyPlot plot;
  plot.text = {"t", "d"};
  plot.y.logarithmic = true;
  plot.series = {{"rtn", 1, true, {{2.3, 559976, 0, ""}, {3, 70, 0, ""}, {4, 27, 0, ""}}},
                 {kHostileText, 2, true, {{2.32, 156763, 9, ""}, {3, 150, 200, ""}}}};
  plot.level = 20;
  plot.highest = 200;
  return plot;
}

/// The places of a polyline or polygon.
std::vector<std::pair<double, double>> places(const test::Element& element) {
  const std::string key = " points=\"";
  std::string list = element.attributes.substr(element.attributes.find(key) + key.size());
  list.resize(list.find('"'));
  std::replace(list.begin(), list.end(), ',', ' ');
  std::istringstream in(list);
  std::vector<std::pair<double, double>> places;
  for (double x = 0, y = 0; in >> x >> y;) places.emplace_back(x, y);
  return places;
}

TEST(Svg, WhatIsAboveTheHighestIsAnArrowWithItsNumber) {
  const std::string picture = draw(capped_plot());
  const test::Markup markup = well_formed_picture(picture);
  EXPECT_THAT(picture, HasSubstr(">rtn 559\u202f976<"));
  EXPECT_THAT(picture, HasSubstr(" 156\u202f763<"));
  EXPECT_THAT(picture, Not(HasSubstr(">1000<"))) << "the axis ends below";
  EXPECT_EQ(test::count_elements(markup, "circle"), 2U + 1U) << "two points below the highest, one in the legend";
  double top = 1e9, arrow_end = 0;
  for (const test::Element& element : markup.elements) {
    if (element.name == "polyline")
      for (const auto& place : places(element)) top = std::min(top, place.second);
    if (element.name == "polygon" && places(element).size() == 7U)
      for (const auto& place : places(element)) arrow_end = std::max(arrow_end, place.second);
  }
  EXPECT_LT(arrow_end, top) << "lines end at the upper edge, arrows stand over it";
  XyPlot all_above = capped_plot();
  all_above.highest = 21;
  well_formed_picture(draw(all_above));
  all_above.level.reset();
  well_formed_picture(draw(all_above));
}

TEST(Svg, ArrowsBesideOneAnotherHaveRows) {
  XyPlot plot = capped_plot();
  plot.series[1].name = "gptq";
  const auto height = [](const XyPlot& p) {
    const std::string picture = draw(p), key = "viewBox=\"0 0 480 ";
    return std::stod(picture.substr(picture.find(key) + key.size()));
  };
  const double two_rows = height(plot);
  plot.series[1].points[0].x = 3.5;
  EXPECT_LT(height(plot), two_rows);
}

TEST(Svg, AFileHasItsStyleAndAPlotEach) {
  const PictureText text{kHostileText, kHostileText};
  const std::string file = draw_file(text, {capped_plot(), xy_plot()});
  const test::Markup markup = well_formed_picture(file);
  EXPECT_THAT(file, StartsWith("<svg xmlns=\"http://www.w3.org/2000/svg\" "));
  EXPECT_EQ(test::count_elements(markup, "style"), 1U);
  EXPECT_THAT(file, HasSubstr("prefers-color-scheme:dark"));
  EXPECT_THAT(file, HasSubstr(">t</text>"));
  EXPECT_EQ(test::count_elements(markup, "polyline"), 3U);
  XyPlot nothing;
  EXPECT_EQ(draw_file(text, {nothing, capped_plot()}), draw_file(text, {capped_plot()}));
  EXPECT_EQ(draw_file(text, {nothing}), "");
}

TEST(Svg, APointAloneStillHasAScale) {
  XyPlot plot;
  plot.series = {{"one", 1, true, {{2, 0, 0, ""}}}};
  well_formed_picture(draw(plot));
  plot.y.logarithmic = true;
  plot.series = {{"one", 1, true, {{0, 5, 9, ""}}}};
  well_formed_picture(draw(plot));
}

TEST(Svg, HeatMapHasACellEachAndCrossesOutWhatIsMissing) {
  HeatMap map;
  map.text = {kHostileText, "d"};
  map.column_label = kHostileText;
  map.rows = {kHostileText, "o_proj"};
  map.columns = {"0", "1", "2"};
  map.values = {{0.1, std::nullopt, 10.0}, {1.0, 0.0, 0.5}};
  const std::string picture = draw(map);
  const test::Markup markup = well_formed_picture(picture);
  EXPECT_EQ(test::count_elements(markup, "rect"), 6U + 24U) << "cells, and steps of the scale";
  EXPECT_THAT(picture, HasSubstr("o_proj, "));
  EXPECT_EQ(test::count_elements(markup, "line"), 1U) << "across what is missing";
  map.values = {{std::nullopt, std::nullopt, std::nullopt}, {std::nullopt, std::nullopt, std::nullopt}};
  EXPECT_EQ(draw(map), "");
}

TEST(Svg, BarsEndInTheirNumbers) {
  BarChart chart;
  chart.text = {"t", "d"};
  chart.categories = {kHostileText, "piqa"};
  chart.series = {"unquantized", kHostileText};
  chart.styles = {0, 1};
  chart.bars = {{{60.0, 2.0, "60 ± 2"}, {std::nullopt, 0, "-"}}, {{70.0, 0, "70"}, {65.0, 1.5, kHostileText}}};
  const std::string picture = draw(chart);
  const test::Markup markup = well_formed_picture(picture);
  EXPECT_EQ(test::count_elements(markup, "rect"), 3U);
  EXPECT_THAT(picture, HasSubstr(">60 ± 2<"));
  EXPECT_EQ(test::count_elements(markup, "line"), 3U + 3U + 1U) << "two error bars, the base line";
  chart.bars = {{{0.0, 0, "0"}, {0.0, 0, "0"}}, {{0.0, 0, "0"}, {0.0, 0, "0"}}};
  EXPECT_EQ(draw(chart), "");
}

TEST(Svg, TimeLineHasALaneEach) {
  TimeLine line;
  line.text = {"t", "d"};
  line.lanes = {"stages", kHostileText};
  line.spans = {{0, 0, 300, 0, "quantize", kHostileText}, {1, 10, 20, 1, kHostileText, ""}};
  line.cuts = {{100, kHostileText}};
  line.legend = {{1, kHostileText}};
  const std::string picture = draw(line);
  const test::Markup markup = well_formed_picture(picture);
  EXPECT_EQ(test::count_elements(markup, "rect"), 2U + 2U);
  EXPECT_THAT(picture, HasSubstr("minutes of work"));
  line.spans.clear();
  EXPECT_EQ(draw(line), "");
}

}  // namespace
}  // namespace voronoi::validation
