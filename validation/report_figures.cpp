#include "validation/report_figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "validation/html.h"
#include "validation/svg.h"
#include "validation/svg_canvas.h"

namespace voronoi::validation {
namespace {

std::string last_part(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

std::string text_of(const core::Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : "";
}

std::optional<double> number_of(const core::Json& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

/// Of a checksum the beginning, which is enough to tell: report.json has all of it.
std::string plain(const core::Json& value) {
  constexpr std::size_t kSum = 64, kShown = 16;
  if (!value.is_string()) return value.dump(-1, ' ', false, core::Json::error_handler_t::replace);
  const auto text = value.get<std::string>();
  const bool sum = text.size() == kSum && text.find_first_not_of("0123456789abcdef") == std::string::npos;
  return sum ? text.substr(0, kShown) + "..." : text;
}

/// "text_sha256 173c87..., bos none, context 2048, ..." of a row. Where its text lies is no part of it.
std::string protocol_of(const core::Json& row) {
  core::Json protocol = core::Json::object();
  if (const auto found = row.find("protocol"); found != row.end() && found->is_object()) {
    protocol = *found;
  } else {
    for (const char* key : {"text_sha256", "join", "bos", "context", "windows", "tokens", "dtype"})
      if (row.contains(key)) protocol[key] = row.at(key);
  }
  std::string words;
  for (const auto& [key, value] : protocol.items())
    if (key != "text") words += fmt::format("{}{} {}", words.empty() ? "" : ", ", key, plain(value));
  return words;
}

struct Measure {
  const char* metric;
  const char* name;
  bool share;  ///< shown in percent
  bool more_is_better;
};
constexpr Measure kMeasures[] = {{"perplexity", "perplexity", false, false},
                                 {"kl", "KL divergence (nats a token)", false, false},
                                 {"kl_p99", "KL divergence, 99th percentile", false, false},
                                 {"top1", "top-1 agreement (%)", true, true},
                                 {"acc", "accuracy (%)", true, true},
                                 {"acc_norm", "accuracy, length-normalised (%)", true, true}};

Measure measure_of(const std::string& metric) {
  for (const Measure& measure : kMeasures)
    if (metric == measure.metric) return measure;
  return {metric.c_str(), metric.c_str(), false, true};
}

double shown(const Measure& measure, double value) { return measure.share ? 100 * value : value; }

std::string value_text(const Measure& measure, double value, const std::optional<double>& error) {
  const std::string text = measure.share ? fmt::format("{:.2f}", 100 * value) : number_text(value, 5);
  return error ? fmt::format("{} ± {}", text, number_text(shown(measure, *error), 2)) : text;
}

/// Everything that has figures, by name: the unquantized model first. Where a label stands for several, the model's own
/// name tells them apart.
class Names {
 public:
  explicit Names(const Figures& figures) {
    for (const bool quantized : {false, true})
      for (const Figure& figure : figures.all)
        if (figure.quantized() == quantized) add(figure);
    std::map<std::string, int> times;
    for (const Entry& entry : entries_) ++times[entry.label];
    for (Entry& entry : entries_)
      entry.name = times[entry.label] > 1 ? fmt::format("{} ({})", entry.label, last_part(entry.model)) : entry.label;
    int next = 1;
    for (Entry& entry : entries_) entry.style = entry.bits ? next++ : 0;
  }
  struct Entry {
    std::string label, model, name, method;
    std::optional<double> bits, nominal;
    int style = 0;
  };
  const std::vector<Entry>& all() const { return entries_; }
  const Entry& of(const Figure& figure) const {
    return *std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return is(entry, figure); });
  }
  bool several_quantized() const {
    return std::count_if(entries_.begin(), entries_.end(), [](const Entry& e) { return e.bits.has_value(); }) > 1;
  }

 private:
  static bool is(const Entry& entry, const Figure& figure) {
    return entry.label == figure.label && entry.model == figure.model && entry.bits == figure.bits_true;
  }
  void add(const Figure& figure) {
    if (std::none_of(entries_.begin(), entries_.end(), [&](const Entry& entry) { return is(entry, figure); }))
      entries_.push_back({figure.label, figure.model, "", figure.method, figure.bits_true, figure.bits_nominal});
  }
  std::vector<Entry> entries_;
};

const Figure* row_of(const FigureGroup& group, const Names& names, const Names::Entry& entry) {
  for (const Figure* row : group.rows)
    if (&names.of(*row) == &entry) return row;
  return nullptr;
}

std::string group_name(const FigureGroup& group) {
  return fmt::format("{}: {}", group.task, measure_of(group.metric).name);
}

/// Change against the unquantized model: in percent of a perplexity, in points of a share.
std::string change(const Measure& measure, const Figure& figure) {
  if (!figure.reference || !figure.quantized()) return "";
  if (measure.share) return fmt::format("{:+.2f}", 100 * (figure.value - *figure.reference));
  return *figure.reference > 0 ? fmt::format("{:+.1f} %", 100 * (figure.value / *figure.reference - 1)) : "";
}

HtmlTable overview(const std::vector<FigureGroup>& groups, const Names& names) {
  HtmlTable content{"All figures, ± one standard error", {{"measure", false}}, {}};
  for (const Names::Entry& entry : names.all()) content.columns.push_back({entry.name});
  const bool one = !names.several_quantized();
  if (one) content.columns.push_back({"change"});
  content.columns.push_back({"n"});
  content.columns.push_back({"protocol"});
  std::vector<std::string> bits{"true bits a weight"}, nominal{"nominal bits a weight"};
  for (const Names::Entry& entry : names.all()) {
    bits.push_back(entry.bits ? fmt::format("{:.3f}", *entry.bits) : "unquantized");
    nominal.push_back(entry.nominal ? fmt::format("{:.2f}", *entry.nominal) : "-");
  }
  for (std::vector<std::string>* row : {&bits, &nominal}) {
    row->resize(content.columns.size(), "");
    content.rows.push_back(*row);
  }
  for (const FigureGroup& group : groups) {
    const Measure measure = measure_of(group.metric);
    std::vector<std::string> cells{group_name(group)};
    for (const Names::Entry& entry : names.all()) {
      const Figure* row = row_of(group, names, entry);
      if (row != nullptr) {
        cells.push_back(value_text(measure, row->value, row->error));
      } else {
        const bool known = !entry.bits && group.rows.front()->reference;
        cells.push_back(known ? value_text(measure, *group.rows.front()->reference, std::nullopt) : "-");
      }
    }
    if (one) cells.push_back(change(measure, *group.rows.back()));
    cells.push_back(number_text(static_cast<double>(group.rows.back()->n), 15));
    cells.push_back(fmt::format("P{}", group.protocol + 1));
    content.rows.push_back(std::move(cells));
  }
  return content;
}

/// Groups of one metric side by side: a bar each model. Tasks of questions end in their mean.
std::string bars(const std::vector<const FigureGroup*>& groups, const Names& names) {
  const Measure measure = measure_of(groups.front()->metric);
  BarChart chart;
  chart.text.title = std::string(measure.name) + " by task and model";
  chart.text.description = "Horizontal bars with their values; the table below has the same numbers.";
  std::vector<const Names::Entry*> entries;
  for (const Names::Entry& entry : names.all())
    if (std::any_of(groups.begin(), groups.end(),
                    [&](const FigureGroup* group) { return row_of(*group, names, entry) != nullptr; }))
      entries.push_back(&entry);
  HtmlTable numbers{fmt::format("{}{}", measure.name, measure.more_is_better ? "" : ", less is better"),
                    {{"task", false}, {"model", false}, {"value"}, {"standard error"}, {"n"}, {"protocol"}},
                    {}};
  for (const Names::Entry* entry : entries) {
    chart.series.push_back(entry->name);
    chart.styles.push_back(entry->style);
  }
  std::vector<double> sums(entries.size(), 0);
  std::vector<std::size_t> counts(entries.size(), 0);
  for (const FigureGroup* group : groups) {
    chart.categories.push_back(group->task);
    std::vector<Bar> row;
    for (std::size_t s = 0; s < entries.size(); ++s) {
      const Figure* found = row_of(*group, names, *entries[s]);
      if (found == nullptr) {
        row.push_back({std::nullopt, 0, "-"});
        continue;
      }
      row.push_back({shown(measure, found->value), found->error ? shown(measure, *found->error) : 0,
                     value_text(measure, found->value, found->error)});
      numbers.rows.push_back({group->task, entries[s]->name, value_text(measure, found->value, std::nullopt),
                              found->error ? number_text(shown(measure, *found->error), 3) : "-",
                              number_text(static_cast<double>(found->n), 15), fmt::format("P{}", group->protocol + 1)});
      sums[s] += found->value;
      ++counts[s];
    }
    chart.bars.push_back(std::move(row));
  }
  if (measure.share && groups.size() > 1) {
    chart.categories.emplace_back("mean");
    std::vector<Bar> row;
    for (std::size_t s = 0; s < entries.size(); ++s) {
      const bool whole = counts[s] == groups.size();
      const double mean = sums[s] / static_cast<double>(groups.size());
      row.push_back(whole ? Bar{shown(measure, mean), 0, value_text(measure, mean, std::nullopt)}
                          : Bar{std::nullopt, 0, "-"});
      if (whole)
        numbers.rows.push_back({"mean", entries[s]->name, value_text(measure, mean, std::nullopt), "-", "", ""});
    }
    chart.bars.push_back(std::move(row));
  }
  return figure(draw(chart), numbers);
}

/// What a figure is drawn over.
struct Cost {
  const char* axis;
  std::optional<double> (*of)(const Figure&);
};
constexpr Cost kTrueBits{"true bits a weight", [](const Figure& f) { return f.bits_true; }};
constexpr Cost kMinutes{"minutes of quantization", [](const Figure& f) {
                          return f.quantize_seconds ? std::optional(*f.quantize_seconds / 60) : std::nullopt;
                        }};
constexpr Cost kMemory{"GiB of memory a rank", [](const Figure& f) {
                         return f.peak_memory ? std::optional(*f.peak_memory / (1024.0 * 1024 * 1024)) : std::nullopt;
                       }};

/// One figure of many models over what it costs, and its numbers. A perplexity of more than ten times the unquantized
/// model's, which is of no use, does not take the room from the others.
std::pair<XyPlot, HtmlTable> trade_off(const FigureGroup& group, const Names& names, const Cost& cost) {
  const Measure measure = measure_of(group.metric);
  const std::string axis = cost.axis;
  XyPlot plot;
  plot.text.title = fmt::format("{} over {}", group_name(group), axis);
  plot.text.description =
      "A mark a run, a line a method, the unquantized model dashed; the table below has the numbers.";
  plot.x.label = axis;
  plot.y = {measure.name, !measure.share};
  HtmlTable numbers{plot.text.title + (measure.more_is_better ? "" : ", less is better"),
                    {{"model", false}, {axis}, {measure.name}, {"standard error"}},
                    {}};
  std::map<std::string, std::size_t> series;
  for (const Figure* row : group.rows) {
    const std::string text = value_text(measure, row->value, std::nullopt);
    const std::string error = row->error ? number_text(shown(measure, *row->error), 3) : "-";
    if (!row->quantized()) {
      plot.level = shown(measure, row->value);
      if (!measure.more_is_better) plot.highest = 10 * *plot.level;
      plot.level_name = fmt::format("unquantized {}", text);
      numbers.rows.push_back({names.of(*row).name, "-", text, error});
      continue;
    }
    const std::optional<double> at = cost.of(*row);
    if (!at) continue;
    const auto found = series.emplace(row->method, plot.series.size());
    if (found.second) plot.series.push_back({row->method, static_cast<int>(plot.series.size()) + 1, true, {}});
    plot.series[found.first->second].points.push_back(
        {*at, shown(measure, row->value), row->error ? shown(measure, *row->error) : 0,
         fmt::format("{}: {} at {} {}", names.of(*row).name, text, number_text(*at), axis)});
    numbers.rows.push_back({names.of(*row).name, number_text(*at), text, error});
  }
  return {std::move(plot), std::move(numbers)};
}

/// Of perplexities of several models.
bool has_trade_off(const FigureGroup& group) {
  return group.metric == "perplexity" &&
         std::count_if(group.rows.begin(), group.rows.end(), [](const Figure* row) { return row->quantized(); }) > 1;
}

std::string pictures(const std::vector<FigureGroup>& groups, const Names& names) {
  std::string out;
  std::vector<std::string> metrics;
  for (const FigureGroup& group : groups)
    if (std::find(metrics.begin(), metrics.end(), group.metric) == metrics.end()) metrics.push_back(group.metric);
  for (const std::string& metric : metrics) {
    std::vector<const FigureGroup*> together;
    for (const FigureGroup& group : groups) {
      if (group.metric != metric) continue;
      if (!has_trade_off(group)) {
        together.push_back(&group);
        continue;
      }
      for (const Cost& cost : {kTrueBits, kMinutes, kMemory}) {
        const auto [plot, numbers] = trade_off(group, names, cost);
        if (!plot.series.empty()) out += figure(draw(plot), numbers);
      }
    }
    if (!together.empty()) out += bars(together, names);
  }
  return "<div class=\"pair\">\n" + out + "</div>\n";
}

}  // namespace

Figures read_figures(const Report& report) {
  Figures figures;
  for (const ReportRow& row : report.rows) {
    const core::Json& json = row.evaluation;
    Figure figure;
    figure.model = text_of(json, "model");
    figure.method = text_of(json, "method");
    figure.label = text_of(json, "label");
    if (figure.label.empty()) figure.label = figure.method;
    figure.metric = text_of(json, "metric");
    if (figure.metric.empty()) figure.metric = "perplexity";
    figure.task = last_part(text_of(json, "task"));
    if (figure.task.empty()) figure.task = last_part(text_of(json, "text"));
    std::optional<double> value = number_of(json, "value");
    if (!value) value = number_of(json, "perplexity");
    if (figure.task.empty() || !value) continue;
    figure.value = *value;
    figure.error = number_of(json, "stderr");
    figure.bits_true = number_of(json, "bits_true");
    figure.bits_nominal = number_of(json, "bits_nominal");
    figure.reference = number_of(json, "reference");
    if (!figure.reference) figure.reference = number_of(json, "reference_perplexity");
    figure.n = static_cast<std::int64_t>(number_of(json, "n").value_or(number_of(json, "tokens").value_or(0)));
    figure.quantize_seconds = row.quantize_seconds;
    figure.peak_memory = row.peak_memory_bytes;
    const std::string protocol = protocol_of(json);
    const auto known = std::find(figures.protocols.begin(), figures.protocols.end(), protocol);
    figure.protocol = static_cast<std::size_t>(known - figures.protocols.begin());
    if (known == figures.protocols.end()) figures.protocols.push_back(protocol);
    figures.all.push_back(std::move(figure));
  }
  return figures;
}

std::vector<FigureGroup> grouped(const Figures& figures) {
  std::vector<FigureGroup> groups;
  for (const Figure& figure : figures.all) {
    auto found = std::find_if(groups.begin(), groups.end(), [&](const FigureGroup& group) {
      return group.task == figure.task && group.metric == figure.metric && group.protocol == figure.protocol;
    });
    if (found == groups.end()) found = groups.insert(groups.end(), {figure.task, figure.metric, figure.protocol, {}});
    found->rows.push_back(&figure);
  }
  const auto order = [](const FigureGroup& group) {
    for (std::size_t i = 0; i < std::size(kMeasures); ++i)
      if (group.metric == kMeasures[i].metric) return i;
    return std::size(kMeasures);
  };
  std::stable_sort(groups.begin(), groups.end(),
                   [&](const FigureGroup& a, const FigureGroup& b) { return order(a) < order(b); });
  for (FigureGroup& group : groups)
    std::stable_sort(group.rows.begin(), group.rows.end(),
                     [](const Figure* a, const Figure* b) { return a->quantized() < b->quantized(); });
  return groups;
}

std::string figures_section(const Figures& figures) {
  std::string out = heading(2, "Quality", "quality");
  if (figures.all.empty())
    return out +
           paragraph("Nothing is evaluated yet: voronoi eval --model RUN --text FILE adds its figures here.", "note");
  const std::vector<FigureGroup> groups = grouped(figures);
  const Names names(figures);
  out += table(overview(groups, names)) + pictures(groups, names);
  HtmlTable protocols{"Protocols: what each figure was measured with", {{""}, {"protocol", false}}, {}};
  for (std::size_t i = 0; i < figures.protocols.size(); ++i)
    protocols.rows.push_back({fmt::format("P{}", i + 1), figures.protocols[i]});
  out += heading(3, "Protocols") + table(protocols);
  out += paragraph(
      "True bits count everything that is stored for the quantized linears: packed indices, codebooks, scales, biases, "
      "permutation, outliers. Nominal bits count indices alone.",
      "note");
  return out;
}

std::string perplexity_picture(const Figures& figures) {
  const Names names(figures);
  std::vector<XyPlot> plots;
  for (const FigureGroup& group : grouped(figures)) {
    if (!has_trade_off(group)) continue;
    XyPlot plot = trade_off(group, names, kTrueBits).first;
    plot.text.title += ", less is better";
    plot.width = 720;
    plot.height = 300;
    plots.push_back(std::move(plot));
  }
  return draw_file({"Perplexity over true bits a weight",
                    "A mark a run, a line a method, the unquantized model dashed. True bits count all that is stored."},
                   plots);
}

std::string figures_sentence(const Figures& figures) {
  const Names names(figures);
  std::string out;
  std::map<std::string, std::map<const Names::Entry*, std::pair<double, int>>> questions;  // metric -> sum, tasks
  for (const FigureGroup& group : grouped(figures)) {
    const Measure measure = measure_of(group.metric);
    const bool accuracy = group.metric == "acc" || group.metric == "acc_norm";
    const Figure* best = nullptr;
    for (const Figure* row : group.rows) {
      if (accuracy) {
        auto& sum = questions[group.metric][&names.of(*row)];
        sum.first += row->value;
        ++sum.second;
      }
      if (row->quantized() && (best == nullptr || row->value < best->value)) best = row;
    }
    if (group.metric != "perplexity" || best == nullptr) continue;
    out += fmt::format("{} {} the perplexity {} {}", out.empty() ? "On" : "; on", group.task,
                       names.several_quantized() ? fmt::format("is least for {}:", names.of(*best).name) : "is",
                       number_text(best->value));
    if (best->reference)
      out += fmt::format(" beside {} of the unquantized model ({})", number_text(*best->reference),
                         change(measure, *best));
  }
  if (questions.empty()) return out.empty() ? "" : out + ".";
  const auto& means = questions.contains("acc") ? questions.at("acc") : questions.begin()->second;
  int most = 0;
  for (const auto& entry : means) most = std::max(most, entry.second.second);
  std::string answers;
  for (const Names::Entry& entry : names.all())
    if (const auto found = means.find(&entry); found != means.end() && found->second.second == most)
      answers +=
          fmt::format("{}{:.1f} % for {}", answers.empty() ? "" : ", ", 100 * found->second.first / most, entry.name);
  return fmt::format("{}{}ean accuracy over {} tasks: {}.", out, out.empty() ? "M" : "; m", most, answers);
}

}  // namespace voronoi::validation
