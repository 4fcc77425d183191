#include "validation/report_html.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "core/log.h"
#include "validation/html.h"
#include "validation/report_figures.h"
#include "validation/report_run_html.h"
#include "validation/svg.h"
#include "validation/svg_canvas.h"

namespace voronoi::validation {
namespace {

/// Those that the true bits are of.
std::int64_t weights_of(const RunSection& run) {
  std::int64_t weights = 0;
  for (const LayerRow& layer : run.layers) weights += layer.weights;
  for (const UnquantizedLinear& linear : run.unquantized) weights += linear.weights;
  return weights;
}

double seconds_of(const RunSection& run) {
  double seconds = 0;
  for (const auto& [stage, spent] : run.stage_seconds) seconds += spent;
  return seconds;
}

std::string millions(double count) {
  return count >= 1e9 ? number_text(count / 1e9, 3) + " billion" : number_text(count / 1e6, 3) + " million";
}

/// A tile a figure: name, value, and a word on it.
std::string fact_tiles(const std::vector<std::array<std::string, 3>>& facts) {
  std::string out = "<dl class=\"facts\">\n";
  for (const auto& [name, value, note] : facts)
    out += fmt::format("<div><dt>{}</dt><dd>{}{}</dd></div>\n", escape_markup(name), escape_markup(value),
                       note.empty() ? "" : "<small>" + escape_markup(note) + "</small>");
  return out + "</dl>\n";
}

std::vector<std::array<std::string, 3>> facts_of(const RunSection& run) {
  const double weights = static_cast<double>(weights_of(run)), bytes = weights * run.true_bits / 8;
  std::vector<std::array<std::string, 3>> facts;
  facts.push_back(
      {"True bits a weight", fmt::format("{:.3f}", run.true_bits), fmt::format("nominal {:.2f}", run.nominal_bits)});
  facts.push_back({run.unquantized.empty() ? "Quantized linears" : "Linears", core::format_bytes(bytes),
                   fmt::format("instead of {} in 16 bits", core::format_bytes(2 * weights))});
  facts.push_back({"Mean relative error", number_text(run.mean_relative_error, 3),
                   fmt::format("{} layers, {} failed", run.layers.size(), run.failures.size())});
  facts.push_back({"Time", core::format_duration(seconds_of(run)),
                   fmt::format("{} {}, {} {}", run.ranks, run.ranks == 1 ? "rank" : "ranks", run.starts,
                               run.starts == 1 ? "start" : "starts")});
  facts.push_back({"Peak memory of a rank", core::format_bytes(static_cast<double>(run.peak_memory_bytes)), ""});
  return facts;
}

HtmlTable comparison(const std::vector<RunSection>& runs) {
  HtmlTable rows{"Runs",
                 {{"run", false},
                  {"model", false},
                  {"true bits"},
                  {"nominal"},
                  {"mean error"},
                  {"layers"},
                  {"failed"},
                  {"time"},
                  {"ranks"},
                  {"peak memory"}},
                 {}};
  for (const RunSection& run : runs)
    rows.rows.push_back({run.label, model_name(run), fmt::format("{:.3f}", run.true_bits),
                         fmt::format("{:.2f}", run.nominal_bits), number_text(run.mean_relative_error, 3),
                         std::to_string(run.layers.size()), std::to_string(run.failures.size()),
                         core::format_duration(seconds_of(run)), std::to_string(run.ranks),
                         core::format_bytes(static_cast<double>(run.peak_memory_bytes))});
  return rows;
}

std::string run_id(std::size_t i) { return fmt::format("run-{}", i + 1); }

std::string navigation(const std::vector<RunSection>& runs) {
  std::string out = "<nav aria-label=\"Sections\"><ul>\n<li><a href=\"#quality\">Quality</a></li>\n";
  for (std::size_t i = 0; i < runs.size(); ++i)
    out += fmt::format("<li><a href=\"#{}\">{}</a></li>\n", run_id(i), escape_markup(runs[i].label));
  return out + "</ul></nav>\n";
}

std::string quoted_section(const QuotedTable& quoted) {
  if (quoted.rows.empty()) return "";
  const auto cells = quoted_cells(quoted);
  HtmlTable content{quoted_heading(), {}, {cells.begin() + 1, cells.end()}};
  for (std::size_t i = 0; i < cells.front().size(); ++i)
    content.columns.push_back({cells.front()[i], i >= 2 && i + 1 < cells.front().size()});
  return heading(2, quoted_heading(), "quoted") + paragraph(quoted_note(quoted), "note") + table(content);
}

/// The runs with labels that tell them apart: where several have the same, their directories' names are added.
std::vector<RunSection> told_apart(const std::vector<RunSection>& runs) {
  std::vector<RunSection> named = runs;
  for (RunSection& run : named) {
    const auto same =
        std::count_if(runs.begin(), runs.end(), [&](const RunSection& other) { return other.label == run.label; });
    if (same > 1) run.label += fmt::format(" ({})", std::filesystem::path(run.directory).filename().string());
  }
  return named;
}

/// What was compared and what it cost, in sentences.
std::string comparison_sentences(const std::vector<RunSection>& runs) {
  std::vector<std::string> models, methods;
  double least = 0, most = 0, seconds = 0;
  std::int64_t failures = 0;
  const auto add = [](std::vector<std::string>& list, const std::string& name) {
    if (!name.empty() && std::find(list.begin(), list.end(), name) == list.end()) list.push_back(name);
  };
  for (const RunSection& run : runs) {
    add(models, model_name(run));
    add(methods, run.method);
    least = &run == &runs.front() ? run.true_bits : std::min(least, run.true_bits);
    most = std::max(most, run.true_bits);
    seconds += seconds_of(run);
    failures += std::ssize(run.failures);
  }
  return fmt::format(
      "{} runs of {}, compressed by {} to {:.2f} to {:.2f} true bits a weight. Together they took {}; {}.", runs.size(),
      models.empty() ? "a model" : fmt::format("{}", fmt::join(models, ", ")), fmt::join(methods, ", "), least, most,
      core::format_duration(seconds),
      failures == 0 ? "no layer failed" : fmt::format("{} layers or tasks failed", failures));
}

}  // namespace

std::string model_name(const RunSection& run) {
  if (run.history.starts.empty()) return "";
  std::string path = run.history.starts.back().record.model;
  while (path.ends_with('/')) path.pop_back();
  return path.substr(path.find_last_of('/') + 1);
}

std::string run_sentences(const RunSection& run) {
  const double weights = static_cast<double>(weights_of(run));
  std::string model = model_name(run);
  if (model.empty()) model = "The model";
  std::string out =
      fmt::format("{} was compressed with the method {}: {} linears of {} weights at {:.3f} true bits a weight. ",
                  model, run.method, run.layers.size() + run.unquantized.size(), millions(weights), run.true_bits);
  if (!run.unquantized.empty())
    out += fmt::format("{} of them were left in 16 bits by rules. ", run.unquantized.size());
  const auto calibration = run.identity.find("calibration");
  if (calibration != run.identity.end() && calibration->is_object()) {
    const std::int64_t sequences = calibration->value("sequences", 0), context = calibration->value("context", 0);
    out += fmt::format("It was calibrated on {} tokens ({} sequences of {}, {}){}, ",
                       number_text(static_cast<double>(sequences * context), 15), sequences, context,
                       calibration->value("mode", ""), run.tuning.empty() ? "" : " and tuned");
  } else {
    out += "It was calibrated, ";
  }
  return out + fmt::format("which took {} on {} {}.", core::format_duration(seconds_of(run)), run.ranks,
                           run.ranks == 1 ? "rank" : "ranks");
}

std::string run_section(const RunSection& run, const std::string& id) {
  std::string out = heading(2, run.label, id) + paragraph("Run directory " + run.directory, "soft");
  out += fact_tiles(facts_of(run)) + problems_part(run) + layers_part(run) + tuning_part(run) + work_part(run);
  return out;
}

std::string report_html(const Report& report) {
  const Figures figures = read_figures(report);
  const std::vector<RunSection> runs = told_apart(report.runs);
  const std::string quality = figures_sentence(figures);
  std::string title = "Voronoi report", lead, body;
  if (runs.size() == 1) {
    const RunSection& run = runs.front();
    title = fmt::format("{}, {}", model_name(run).empty() ? title : model_name(run), run.label);
    lead = run_sentences(run);
  } else if (!runs.empty()) {
    title = fmt::format("Voronoi report: {} runs compared", runs.size());
    lead = comparison_sentences(runs);
  }
  body = heading(1, title) + paragraph(lead + (quality.empty() ? "" : " " + quality), "lead");
  if (runs.size() == 1 && !runs.front().failures.empty())
    body += paragraph(fmt::format("{} layers or tasks failed: see below.", runs.front().failures.size()), "bad");
  if (runs.size() > 1) body += navigation(runs) + table(comparison(runs));
  body += figures_section(figures) + quoted_section(report.quoted);
  for (std::size_t i = 0; i < runs.size(); ++i) body += run_section(runs[i], run_id(i));
  return page(title, body);
}

}  // namespace voronoi::validation
