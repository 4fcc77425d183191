#include "validation/html.h"

#include <fmt/format.h>

#include "validation/svg.h"

namespace voronoi::validation {
namespace {

constexpr std::string_view kPageStyle = R"(*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1240px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .4em}
h2{font-size:1.35rem;line-height:1.25;margin:2.2em 0 .6em;padding-top:.6em;border-top:2px solid var(--line)}
h3{font-size:1.05rem;margin:1.8em 0 .5em}
h1,h2,h3,p,li,summary,caption,dd{overflow-wrap:anywhere}
p{margin:.4em 0;max-width:75ch}
.lead{font-size:1.1rem}
.soft,caption,.note{color:var(--soft)}
.bad{color:var(--bad);font-weight:600}
a{color:var(--c1)}
nav ul{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;padding:0;margin:.8em 0}
dl.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,165px),1fr));gap:12px;margin:20px 0}
dl.facts div{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:10px 14px}
dl.facts dt{color:var(--soft);font-size:.85rem}
dl.facts dd{margin:2px 0 0;font-size:1.35rem;font-weight:650;font-variant-numeric:tabular-nums;line-height:1.25}
dl.facts dd small{display:block;font-size:.8rem;font-weight:400;color:var(--soft)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:20px;margin:0 0 20px;align-items:start}.pair figure{margin:0}
figure{margin:0 0 20px;padding:14px;border:1px solid var(--line);border-radius:10px;min-width:0}
figure svg{margin:0 auto}
.picture{overflow-x:auto}
figcaption{font-weight:650;margin-bottom:8px;overflow-wrap:anywhere}
details{margin:10px 0 0}
summary{cursor:pointer;color:var(--soft)}
.box{overflow-x:auto;margin:8px 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:0 0 4px}
th,td{padding:4px 12px 4px 0;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
th:last-child,td:last-child{padding-right:2px}
thead th{color:var(--soft);font-weight:600;vertical-align:bottom}
th.word,td.word{text-align:left}
td{white-space:nowrap}td.word{white-space:normal;min-width:9em;max-width:42em;overflow-wrap:anywhere}
pre{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}
@media (max-width:480px){main{padding:16px 10px 48px}figure{padding:10px 8px}h1{font-size:1.4rem}dl.facts{grid-template-columns:1fr 1fr;gap:8px}dl.facts dd{font-size:1.1rem}}
@media print{body{font-size:10pt}main{max-width:none;padding:0}figure,dl.facts div,tr{break-inside:avoid}h2,h3{break-after:avoid}
nav{display:none}.box,.picture{overflow:visible}figure svg{min-width:0!important}details::details-content{content-visibility:visible;display:block}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
)";

std::string cells(const std::vector<Column>& columns, const std::vector<std::string>& texts, std::string_view tag) {
  std::string out = "<tr>";
  for (std::size_t i = 0; i < texts.size(); ++i)
    out += fmt::format("<{0}{1}>{2}</{3}>", tag, columns[i].number ? "" : " class=\"word\"", escape_markup(texts[i]),
                       tag.substr(0, 2));
  return out + "</tr>\n";
}

}  // namespace

std::string paragraph(std::string_view text, std::string_view classes) {
  return fmt::format("<p{}>{}</p>\n", classes.empty() ? "" : fmt::format(" class=\"{}\"", classes),
                     escape_markup(text));
}

std::string heading(int level, std::string_view text, std::string_view id) {
  return fmt::format("<h{0}{2}>{1}</h{0}>\n", level, escape_markup(text),
                     id.empty() ? "" : fmt::format(" id=\"{}\"", escape_markup(id)));
}

std::string table(const HtmlTable& content) {
  std::string out = "<div class=\"box\" tabindex=\"0\"><table>\n";
  if (!content.caption.empty()) out += fmt::format("<caption>{}</caption>\n", escape_markup(content.caption));
  std::vector<std::string> names;
  for (const Column& column : content.columns) names.push_back(column.name);
  out += "<thead>" + cells(content.columns, names, "th scope=\"col\"") + "</thead>\n<tbody>\n";
  for (const std::vector<std::string>& row : content.rows) out += cells(content.columns, row, "td");
  return out + "</tbody></table></div>\n";
}

std::string folded(const HtmlTable& content) {
  HtmlTable inner = content;
  inner.caption.clear();
  return fmt::format("<details><summary>{}</summary>\n{}</details>\n", escape_markup(content.caption), table(inner));
}

std::string figure(const std::string& picture, const HtmlTable& content, bool wide) {
  if (picture.empty()) return table(content);
  HtmlTable numbers = content;
  numbers.caption = "Table: " + content.caption;
  return fmt::format("<figure{}><figcaption>{}</figcaption>\n<div class=\"picture\"{}>{}</div>\n{}</figure>\n",
                     wide ? " class=\"wide\"" : "", escape_markup(content.caption), wide ? " tabindex=\"0\"" : "",
                     picture, folded(numbers));
}

std::string page(std::string_view title, const std::string& body) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>\n{}{}"
      "</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
      escape_markup(title), picture_style(), kPageStyle, body);
}

}  // namespace voronoi::validation
