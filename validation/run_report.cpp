#include "validation/run_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <span>
#include <system_error>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "run/run_model.h"
#include "store/journal.h"
#include "validation/evaluation.h"
#include "validation/report.h"
#include "validation/report_html.h"
#include "validation/run_history.h"

namespace voronoi::validation {
namespace {

/// Names of the files of a report.
struct ReportFiles {
  std::filesystem::path json, markdown, html;
  explicit ReportFiles(const std::filesystem::path& stem) {
    json = markdown = html = stem;
    json += ".json";
    markdown += ".md";
    html += ".html";
  }
};
constexpr const char* kStem = "report";  // in a run's own directory
constexpr const char* kRemedy = "`voronoi report` makes it again";

core::Json tuning_json(const run::RunState& state) {
  core::Json phases = core::Json::array();
  for (const auto& [name, tuning] : state.tuning) {
    core::Json phase = to_json(tuning.begun), points = core::Json::array(), ended = core::Json::array();
    for (const run::TuningPoint& point : tuning.points) points.push_back(to_json(point));
    for (const auto& [block, end] : tuning.ended) ended.push_back(to_json(end));
    phase["points"] = std::move(points);
    phase["ended"] = std::move(ended);
    phases.push_back(std::move(phase));
  }
  return phases;
}

RunSection section_of(const store::RunPaths& run) {
  RunSection section;
  section.identity = store::read_identity(run);
  const std::vector<core::Json> journal = store::Journal::read(run.journal());
  const run::RunState state = run::replay(journal, run.journal().string());
  section.history = read_history(journal, run.journal().string());
  section.label = run::run_label(section.identity, state);
  section.directory = run.root.string();
  section.method = section.identity.at("quantization").at("method").get<std::string>();
  section.true_bits = true_bits(state);
  section.nominal_bits = nominal_bits(state);
  section.stage_seconds = state.stage_seconds;
  section.tuning = tuning_json(state);
  section.ranks = state.last_start ? state.last_start->ranks : 0;
  section.starts = state.start;
  section.peak_memory_bytes = state.peak_memory_bytes;
  section.n_tasks = state.scheduling.n_tasks;
  section.task_seconds = state.scheduling.task_seconds;
  section.waiting_seconds = state.scheduling.waiting_seconds;
  section.coordinator_seconds = state.scheduling.coordinator_seconds;
  section.failures = run::failures(state);
  for (const auto& [tensor, damage] : state.damaged) section.damaged.push_back({tensor, damage.error, damage.values});
  for (const auto& [name, weights] : state.unquantized) section.unquantized.push_back({name, weights});
  for (const auto& [number, text] : state.calibration_texts)
    section.texts.push_back({text.path, text.weight, text.windows, text.tokens, text.text_tokens, text.duplicates});
  for (const auto& [block, seen] : state.coverage)
    section.coverage.push_back({block, seen.experts, seen.covered, seen.least, seen.median});
  for (const auto& entry : state.layers) {
    const auto& layer = entry.second;  // no structured binding: clang 14 lets no lambda capture one
    LayerRow row;
    row.name = entry.first;
    row.weights = layer.weights;
    row.true_bits = static_cast<double>(layer.stored_bits) / static_cast<double>(layer.weights);
    row.relative_error = layer.relative_error;
    row.seconds = layer.seconds;
    row.calibration_tokens = layer.calibration_tokens;
    row.pooled_tokens = layer.pooled_tokens;
    row.left_out_tokens = layer.left_out_tokens;
    const auto count = [&](const char* figure) {
      return static_cast<std::int64_t>(layer.statistics.value(figure, 0.0));
    };
    row.damping = layer.statistics.value("damping", 0.0);
    row.damping_steps = count("damping_steps");
    row.dead_inputs = count("dead_columns");
    section.layers.push_back(std::move(row));
    section.mean_relative_error += layer.relative_error / static_cast<double>(state.layers.size());
  }
  return section;
}

/// The run's evaluations; those of unquantized models, which every run has, once (`seen`).
void add_rows(Report& report, const store::RunPaths& run, std::optional<double> seconds, std::optional<double> memory,
              std::set<std::string>& seen) {
  for (const Evaluation& stored : stored_evaluations(run)) {
    for (const Result& reference : stored.reference)
      if (seen.insert(reference.model + "\n" + reference.task + "\n" + reference.metric + "\n" +
                      reference.protocol.dump())
              .second)
        report.rows.push_back({to_json(reference), std::nullopt, std::nullopt});
    for (const Result& result : stored.results) report.rows.push_back({to_json(result), seconds, memory});
  }
}

std::vector<std::byte> as_bytes(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

Figures run_figures(const store::RunPaths& run) {
  Report report;
  std::set<std::string> seen;
  add_rows(report, run, std::nullopt, std::nullopt, seen);
  return read_figures(report);
}

RunReport make_run_report(const std::vector<store::RunPaths>& runs, const QuotedTable& quoted) {
  Report report;
  report.quoted = quoted;
  std::set<std::string> seen;
  for (const store::RunPaths& run : runs) {
    report.runs.push_back(section_of(run));
    double seconds = 0;
    for (const auto& [stage, spent] : report.runs.back().stage_seconds)
      if (stage == "calibrate" || stage == "allocate" || stage == "quantize" || stage == "tune") seconds += spent;
    const auto memory = static_cast<double>(report.runs.back().peak_memory_bytes);
    add_rows(report, run, seconds, memory, seen);
  }
  // By task and metric, perplexity before what else a text gives; the unquantized model first, then as the runs were
  // named.
  std::stable_sort(report.rows.begin(), report.rows.end(), [](const ReportRow& a, const ReportRow& b) {
    const auto key = [](const ReportRow& row) {
      const auto metric = row.evaluation.at("metric").get<std::string>();
      return std::tuple(row.evaluation.at("task").get<std::string>(), metric != kPerplexity, metric,
                        !row.evaluation.at("bits_true").is_null());
    };
    return key(a) < key(b);
  });
  RunReport made{report_markdown(report), report_html(report), report_json(report),
                 perplexity_picture(read_figures(report))};
  made.json["markdown_sha256"] = core::sha256(made.markdown);
  made.json["html_sha256"] = core::sha256(made.html);
  made.json = core::seal_json(std::move(made.json));
  return made;
}

std::filesystem::path write_run_report(const RunReport& report, const std::filesystem::path& directory,
                                       const std::string& stem) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) throw core::system_error(directory, "create the directory", error.value());
  const ReportFiles files(directory / stem);
  core::write_file_shared(files.json, report.json.dump(2) + "\n");
  core::write_file_shared(files.markdown, report.markdown);
  core::write_file_shared(files.html, report.html);
  return files.html;
}

void refresh_run_report(const store::RunPaths& run) {
  constexpr int kTries = 10;
  const ReportFiles files(run.report() / kStem);
  for (int tries = 0; tries < kTries; ++tries) {
    write_run_report(make_run_report({run}), run.report());
    // Whoever writes last looks last: then all files are one report, of all evaluations.
    if (check_run_report(run.report()).empty() &&
        core::read_file(files.markdown) == as_bytes(make_run_report({run}).markdown))
      return;
  }
}

std::vector<std::string> check_run_report(const std::filesystem::path& directory) {
  const ReportFiles files(directory / kStem);
  if (!std::filesystem::exists(files.json)) return {};
  std::vector<std::string> problems;
  try {
    const core::Json json = core::read_sealed_json(files.json.string(), kRemedy);
    const auto check = [&](const std::filesystem::path& file, const char* key) {
      if (json.at(key) != core::sha256_of_file(file))
        problems.push_back(fmt::format("{}: is not the one that {} was written with (checksum); {}", file.string(),
                                       files.json.string(), kRemedy));
    };
    check(files.markdown, "markdown_sha256");
    if (json.contains("html_sha256")) check(files.html, "html_sha256");  // earlier versions made no page
  } catch (const core::Error& error) {
    problems.emplace_back(error.what());
  } catch (const core::Json::exception&) {
    problems.push_back(fmt::format("{}: has no checksum of report.md; {}", files.json.string(), kRemedy));
  }
  return problems;
}

}  // namespace voronoi::validation
