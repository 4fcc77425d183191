#include "validation/svg_canvas.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "core/printable.h"
#include "core/utf8.h"

namespace voronoi::validation {
namespace {

constexpr int kStyles = 8;  // colours and shapes that tell series apart; style 0 is the unquantized model's
constexpr double kMark = 4.5;

std::string place(double value) {
  std::string text = fmt::format("{:.1f}", value);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text == "-0" ? "0" : text;
}

std::string with_thousands(std::string digits) {
  const std::size_t point = std::min(digits.find('.'), digits.size());
  const std::size_t first = digits.front() == '-' ? 1 : 0;
  if (point - first <= 4) return digits;
  for (std::size_t at = point; at > first + 3;) digits.insert(at -= 3, "\u202f");
  return digits;
}

constexpr std::string_view kStyle = R"(:root{color-scheme:light dark;
--page:#fff;--panel:#f6f7f9;--ink:#1b1e24;--soft:#596273;--line:#dde1e7;--bad:#b42318;
--c0:#6b7280;--c1:#1d66d6;--c2:#c2410c;--c3:#2a7f3f;--c4:#8e3bb0;--c5:#a16207;--c6:#0e7490;--c7:#be185d;--heat:#c2410c}
@media (prefers-color-scheme:dark){:root{
--page:#14161b;--panel:#1c2028;--ink:#e9ebef;--soft:#a3acbb;--line:#333945;--bad:#ff8a7a;
--c0:#a3acbb;--c1:#6ea8fe;--c2:#ff9a4d;--c3:#63d283;--c4:#d58bf0;--c5:#f0c04a;--c6:#4cc9e0;--c7:#f783b4;--heat:#ff9a4d}}
@media print{:root{color-scheme:light;
--page:#fff;--panel:#fff;--ink:#000;--soft:#444;--line:#bbb;--bad:#b42318;
--c0:#6b7280;--c1:#1d66d6;--c2:#c2410c;--c3:#2a7f3f;--c4:#8e3bb0;--c5:#a16207;--c6:#0e7490;--c7:#be185d;--heat:#c2410c}}
svg{display:block;max-width:100%;height:auto;font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;font-size:13px}
svg text{fill:var(--ink)}svg .soft{fill:var(--soft)}svg .middle{text-anchor:middle}svg .end{text-anchor:end}svg .small{font-size:11px}
svg .inside{fill:var(--page);font-size:11px}
svg .axis{stroke:var(--soft)}svg .grid{stroke:var(--line)}svg .level{stroke:var(--c0);stroke-width:1.5;stroke-dasharray:6 4}
svg .cut{stroke:var(--soft);stroke-dasharray:3 3}svg .lane{fill:var(--panel)}svg .none{fill:none;stroke:var(--soft)}
svg .heat{fill:var(--heat)}svg .error{stroke-width:1.5}
svg .s0{fill:var(--c0);stroke:var(--c0)}svg .s1{fill:var(--c1);stroke:var(--c1)}svg .s2{fill:var(--c2);stroke:var(--c2)}
svg .s3{fill:var(--c3);stroke:var(--c3)}svg .s4{fill:var(--c4);stroke:var(--c4)}svg .s5{fill:var(--c5);stroke:var(--c5)}
svg .s6{fill:var(--c6);stroke:var(--c6)}svg .s7{fill:var(--c7);stroke:var(--c7)}
svg .flat{stroke:none}svg .span{stroke:var(--page);stroke-width:.5}svg .mark{stroke:var(--page)}svg .curve{fill:none;stroke-width:2}
)";

}  // namespace

std::string escape_markup(std::string_view text) {
  std::string out;
  for (const char c : core::printable(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string_view picture_style() { return kStyle; }

double text_width(std::string_view text) {
  std::size_t characters = 0;
  bool valid = false;
  for (std::size_t at = 0; at < text.size(); at += core::scan_utf8(text, at, valid)) ++characters;
  return 0.56 * kFontSize * static_cast<double>(characters);
}

std::string fitted(const std::string& text, double width) {
  if (text_width(text) <= width) return text;
  std::string cut;
  bool valid = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = core::scan_utf8(text, at, valid);
    if (text_width(cut) + text_width("....") > width) break;
    cut += text.substr(at, length);
    at += length;
  }
  return cut + "...";
}

std::string number_text(double value, int digits) {
  if (!std::isfinite(value)) return std::isnan(value) ? "not a number" : value > 0 ? "infinite" : "-infinite";
  const double size = std::abs(value);
  if (size != 0 && (size >= 1e7 || size < 1e-4)) {
    const std::string text = fmt::format("{:.{}e}", value, digits - 1);
    const std::size_t e = text.find('e');
    std::string mantissa = text.substr(0, e);
    if (mantissa.find('.') != std::string::npos) {
      while (mantissa.back() == '0') mantissa.pop_back();
      if (mantissa.back() == '.') mantissa.pop_back();
    }
    return fmt::format("{}e{}", mantissa, std::atoi(text.c_str() + e + 1));
  }
  const int before = size < 1 ? 1 : static_cast<int>(std::floor(std::log10(size))) + 1;
  const int leading = size > 0 && size < 1 ? static_cast<int>(-std::floor(std::log10(size))) - 1 : 0;
  std::string text = fmt::format("{:.{}f}", value, std::max(0, size < 1 ? digits + leading : digits - before));
  if (text.find('.') != std::string::npos) {
    while (text.back() == '0') text.pop_back();
    if (text.back() == '.') text.pop_back();
  }
  return with_thousands(text == "-0" ? "0" : text);
}

Canvas::Canvas(double width, double height, const PictureText& text) : width_(width), height_(height), text_(text) {}

std::string Canvas::style_class(int style) {
  return fmt::format("s{}", style <= 0 ? 0 : 1 + (style - 1) % (kStyles - 1));
}

void Canvas::text(double x, double y, std::string_view words, Anchor anchor, std::string_view classes) {
  const std::string_view place_of = anchor == Anchor::middle ? "middle " : anchor == Anchor::end ? "end " : "";
  body_ += fmt::format("<text x=\"{}\" y=\"{}\"", place(x), place(y));
  if (!place_of.empty() || !classes.empty()) body_ += fmt::format(" class=\"{}{}\"", place_of, classes);
  body_ += ">" + escape_markup(words) + "</text>";
}

void Canvas::upright_text(double x, double y, std::string_view words) {
  body_ += fmt::format("<text x=\"{0}\" y=\"{1}\" transform=\"rotate(-90 {0} {1})\" class=\"middle soft\">{2}</text>",
                       place(x), place(y), escape_markup(words));
}

void Canvas::line(double x1, double y1, double x2, double y2, std::string_view classes) {
  body_ += fmt::format(R"(<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>)", place(x1), place(y1), place(x2),
                       place(y2), classes);
}

void Canvas::polyline(const std::vector<std::pair<double, double>>& points, int style) {
  std::string list;
  for (const auto& [x, y] : points) list += fmt::format("{}{},{}", list.empty() ? "" : " ", place(x), place(y));
  body_ += fmt::format(R"(<polyline points="{}" class="{} curve"/>)", list, style_class(style));
}

void Canvas::titled(std::string element, std::string_view tooltip) {
  if (tooltip.empty()) {
    body_ += element + "/>";
    return;
  }
  const std::string name = element.substr(1, element.find(' ') - 1);
  body_ += fmt::format("{}><title>{}</title></{}>", element, escape_markup(tooltip), name);
}

void Canvas::rect(double x, double y, double width, double height, std::string_view classes, std::string_view tooltip,
                  double opacity) {
  std::string element = fmt::format(R"(<rect x="{}" y="{}" width="{}" height="{}" class="{}")", place(x), place(y),
                                    place(std::max(0.0, width)), place(std::max(0.0, height)), classes);
  if (opacity < 1) element += fmt::format(" fill-opacity=\"{:.2f}\"", std::max(0.0, opacity));
  titled(std::move(element), tooltip);
}

void Canvas::shape(const std::vector<std::pair<double, double>>& points, int style, std::string_view tooltip) {
  std::string list;
  for (const auto& [x, y] : points) list += fmt::format("{}{},{}", list.empty() ? "" : " ", place(x), place(y));
  titled(fmt::format(R"(<polygon points="{}" class="{} mark")", list, style_class(style)), tooltip);
}

void Canvas::mark(double x, double y, int style, std::string_view tooltip) {
  const auto around = [&](std::initializer_list<std::pair<double, double>> corners) {
    std::vector<std::pair<double, double>> points;
    for (const auto& [dx, dy] : corners) points.emplace_back(x + dx, y + dy);
    shape(points, style, tooltip);
  };
  constexpr double r = kMark, t = kMark * 0.4;
  // Where colours come again, each has another shape than before.
  const int colours = kStyles - 1, round = (style - 1) / colours;
  switch (style <= 0 ? 0 : 1 + (style - 1 + round) % colours) {
    case 1:
      titled(
          fmt::format(R"(<circle cx="{}" cy="{}" r="{}" class="{} mark")", place(x), place(y), r, style_class(style)),
          tooltip);
      break;
    case 2:
      around({{-r, -r}, {r, -r}, {r, r}, {-r, r}});
      break;
    case 3:
      around({{0, -1.3 * r}, {1.2 * r, r}, {-1.2 * r, r}});
      break;
    case 4:
      around({{0, -1.4 * r}, {1.4 * r, 0}, {0, 1.4 * r}, {-1.4 * r, 0}});
      break;
    case 5:
      around({{0, 1.3 * r}, {1.2 * r, -r}, {-1.2 * r, -r}});
      break;
    case 6:
      around({{-t, -1.2 * r},
              {t, -1.2 * r},
              {t, -t},
              {1.2 * r, -t},
              {1.2 * r, t},
              {t, t},
              {t, 1.2 * r},
              {-t, 1.2 * r},
              {-t, t},
              {-1.2 * r, t},
              {-1.2 * r, -t},
              {-t, -t}});
      break;
    case 7:
      around({{-1.3 * r, 0}, {r, -1.2 * r}, {r, 1.2 * r}});
      break;
    default:
      around({{-1.5 * r, -t}, {1.5 * r, -t}, {1.5 * r, t}, {-1.5 * r, t}});
  }
}

void Canvas::arrow(double x, double y, int style, std::string_view tooltip) {
  constexpr double r = kMark, t = kMark * 0.35;
  shape({{x, y},
         {x + r, y + 1.6 * r},
         {x + t, y + 1.6 * r},
         {x + t, y + 3 * r},
         {x - t, y + 3 * r},
         {x - t, y + 1.6 * r},
         {x - r, y + 1.6 * r}},
        style, tooltip);
}

double Canvas::legend(double x, double y, double width, const std::vector<std::pair<int, std::string>>& names) {
  constexpr double kRow = 20;
  if (names.empty()) return 0;
  double at = x, row = y + kRow / 2;
  for (const auto& [style, name] : names) {
    const std::string words = fitted(name, width - 24);
    const double needed = 22 + text_width(words);
    if (at > x && at + needed > x + width) {
      at = x;
      row += kRow;
    }
    mark(at + 7, row, style);
    text(at + 17, row + 4.5, words);
    at += needed + 12;
  }
  return row + kRow / 2 - y;
}

std::string Canvas::element(std::string_view attributes, std::string_view content) const {
  return fmt::format(R"(<svg{4} viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img">)"
                     "<title>{2}</title><desc>{3}</desc>{5}{6}</svg>\n",
                     place(width_), place(height_), escape_markup(text_.title), escape_markup(text_.description),
                     attributes, content, body_);
}

std::string Canvas::finish() const {
  // A broad picture shrinks only so far that its words can be read, and then scrolls in its box.
  constexpr double kBroad = 600, kSmallest = 0.75;
  return element(
      width_ > kBroad ? fmt::format(" style=\"min-width:{:.0f}px\"", std::max(kBroad, kSmallest * width_)) : "", "");
}

std::string Canvas::finish_file() const {
  return element(" xmlns=\"http://www.w3.org/2000/svg\"",
                 fmt::format("<style>{}svg{{background:var(--page)}}</style>", kStyle));
}

Scale::Scale(double low, double high, bool logarithmic, double from, double to)
    : low_(low), high_(high), logarithmic_(logarithmic), from_(from), to_(to) {}

double Scale::at(double value) const {
  const double share = logarithmic_ ? std::log(value / low_) / std::log(high_ / low_) : (value - low_) / (high_ - low_);
  return from_ + share * (to_ - from_);
}

std::vector<Scale::Tick> Scale::ticks(int wanted) const {
  std::vector<Tick> ticks;
  constexpr double kSlack = 1e-9;
  if (logarithmic_) {
    // Powers of ten, or more of each decade while there is room.
    constexpr std::array<std::array<bool, 10>, 3> kDensities{
        {{false, true, false, false, false, false, false, false, false, false},
         {false, true, true, false, false, true, false, false, false, false},
         {false, true, true, true, true, true, true, false, true, false}}};
    std::vector<Tick> best;
    for (const auto& density : kDensities) {
      ticks.clear();
      for (int power = static_cast<int>(std::floor(std::log10(low_))); power <= std::ceil(std::log10(high_)); ++power)
        for (int digit = 1; digit < 10; ++digit) {
          const double value = digit * std::pow(10.0, power);
          if (density[static_cast<std::size_t>(digit)] && value >= low_ * (1 - kSlack) && value <= high_ * (1 + kSlack))
            ticks.push_back({value, number_text(value)});
        }
      if (best.empty() || std::ssize(ticks) <= wanted + 1) best = ticks;
    }
    if (best.size() > static_cast<std::size_t>(wanted) + 1) {  // many decades: every so many
      const std::size_t step = best.size() / static_cast<std::size_t>(wanted) + 1;
      ticks.clear();
      for (std::size_t i = 0; i < best.size(); i += step) ticks.push_back(best[i]);
      best = ticks;
    }
    if (best.size() >= 3) return best;
    ticks.clear();
  }
  const double rough = (high_ - low_) / wanted, power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 2.5, 5.0})
    if (factor * power >= rough * (1 - kSlack)) {
      step = factor * power;
      break;
    }
  for (double n = std::ceil(low_ / step - kSlack); n * step <= high_ + kSlack * step; ++n)
    ticks.push_back({n * step, number_text(n * step)});
  return ticks;
}

}  // namespace voronoi::validation
