// The report as text: Markdown for people, JSON for programs. Knows figures, not where they come from.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"

namespace voronoi::validation {

/// One row of the comparison: a method at a bit width on one text.
struct ReportRow {
  core::Json evaluation;                   ///< the fields of `eval --json`
  std::optional<double> quantize_seconds;  ///< wall time of the run's calibration and quantization stages
};

struct LayerRow {
  std::string name;
  std::int64_t weights = 0;
  double true_bits = 0, relative_error = 0, seconds = 0;
  std::int64_t calibration_tokens = 0;  ///< rows that entered the layer in calibration
  std::int64_t pooled_tokens = 0;  ///< above 0: an expert with too few of them; its Hessian is the mean over so many
};

struct RunSection {
  std::string label, directory, method;
  core::Json identity;  ///< run.json
  double true_bits = 0, nominal_bits = 0, mean_relative_error = 0;
  std::map<std::string, double> stage_seconds;
  std::int64_t ranks = 0, attempts = 0, peak_memory_bytes = 0;
  std::int64_t n_tasks = 0;  ///< of the quantize stage
  double task_seconds = 0, waiting_seconds = 0,
         coordinator_seconds = 0;  ///< rank-seconds in and between them; CPU time
  std::vector<LayerRow> layers;
  std::map<std::string, std::string> failures;  ///< task -> error
};

struct Report {
  std::vector<ReportRow> rows;
  std::vector<RunSection> runs;
};

core::Json report_json(const Report& report);
std::string report_markdown(const Report& report);

}  // namespace voronoi::validation
