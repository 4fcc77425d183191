#include "jobs/run_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/file.h"
#include "jobs/evaluation.h"
#include "jobs/run_state.h"
#include "store/journal.h"
#include "validation/report.h"

namespace voronoi::jobs {
namespace {

RunState state_of(const store::RunPaths& run) {
  return replay(store::Journal::read(run.journal()), run.journal().string());
}

std::string label_of(const core::Json& identity, const RunState& state) {
  return fmt::format("{} {:.2f} bits", identity.at("quantization").at("method").get<std::string>(), true_bits(state));
}

validation::RunSection section_of(const store::RunPaths& run) {
  validation::RunSection section;
  section.identity = store::read_identity(run);
  const RunState state = state_of(run);
  section.label = label_of(section.identity, state);
  section.directory = run.root.string();
  section.method = section.identity.at("quantization").at("method").get<std::string>();
  section.true_bits = true_bits(state);
  section.nominal_bits = nominal_bits(state);
  section.stage_seconds = state.stage_seconds;
  section.ranks = state.last_attempt.is_object() ? state.last_attempt.value("ranks", std::int64_t{0}) : 0;
  section.attempts = state.attempt;
  section.peak_memory_bytes = state.peak_memory_bytes;
  section.n_tasks = state.scheduling.n_tasks;
  section.task_seconds = state.scheduling.task_seconds;
  section.waiting_seconds = state.scheduling.waiting_seconds;
  section.coordinator_seconds = state.scheduling.coordinator_seconds;
  section.failures = state.quarantined;
  for (const auto& [name, layer] : state.layers) {
    section.layers.push_back({name, layer.weights,
                              static_cast<double>(layer.stored_bits) / static_cast<double>(layer.weights),
                              layer.relative_error, layer.seconds, layer.calibration_tokens, layer.pooled_tokens});
    section.mean_relative_error += layer.relative_error / static_cast<double>(state.layers.size());
  }
  return section;
}

}  // namespace

std::string run_label(const store::RunPaths& run) { return label_of(store::read_identity(run), state_of(run)); }

std::filesystem::path write_run_report(const std::vector<store::RunPaths>& runs,
                                       const std::filesystem::path& directory) {
  validation::Report report;
  std::set<std::string> references;
  for (const store::RunPaths& run : runs) {
    report.runs.push_back(section_of(run));
    double seconds = 0;
    for (const auto& [stage, spent] : report.runs.back().stage_seconds) seconds += spent;
    for (const StoredEvaluation& stored : stored_evaluations(run)) {
      if (stored.reference &&
          references.insert(stored.reference->text_sha256 + protocol_text(*stored.reference) + stored.reference->model)
              .second)
        report.rows.push_back({to_json(*stored.reference), std::nullopt});
      report.rows.push_back({to_json(stored.quantized), seconds});
    }
  }
  // By text, the unquantized model first, then as the runs were named.
  std::stable_sort(
      report.rows.begin(), report.rows.end(), [](const validation::ReportRow& a, const validation::ReportRow& b) {
        const auto key = [](const validation::ReportRow& row) {
          return std::pair(row.evaluation.at("text").get<std::string>(), !row.evaluation.at("bits_true").is_null());
        };
        return key(a) < key(b);
      });
  std::filesystem::create_directories(directory);
  core::write_file_atomic(directory / "report.json", validation::report_json(report).dump(2) + "\n", "report");
  core::write_file_atomic(directory / "report.md", validation::report_markdown(report), "report");
  return directory / "report.md";
}

}  // namespace voronoi::jobs
