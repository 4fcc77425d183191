// The report as text: Markdown for people, JSON for programs; report_html.h makes the page. Knows figures, not where
// they come from.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "validation/quoted.h"
#include "validation/run_history.h"

namespace voronoi::validation {

/// One row of the comparison: a method at a bit width on one text.
struct ReportRow {
  core::Json evaluation;                    ///< the fields of `eval --json`
  std::optional<double> quantize_seconds;   ///< wall time of calibrating, quantizing and tuning
  std::optional<double> peak_memory_bytes;  ///< largest resident set of any rank of the run
};

struct LayerRow {
  std::string name;
  std::int64_t weights = 0;
  double true_bits = 0, relative_error = 0, seconds = 0;
  std::int64_t calibration_tokens = 0;  ///< rows that entered the layer in calibration
  std::int64_t pooled_tokens = 0;    ///< above 0: an expert with too few of them; its Hessian is the mean over so many
  std::int64_t left_out_tokens = 0;  ///< rows besides whose inputs were not finite or too large
  std::int64_t damping_steps = 0;    ///< above 0: the damping asked for was not enough
  double damping = 0;                ///< share of the mean diagonal that was added; 0 where none is used
  std::int64_t dead_inputs = 0;      ///< always zero in calibration: their diagonal was set
};

/// A linear that a rule leaves as the model has it, in 16 bits.
struct UnquantizedLinear {
  std::string name;
  std::int64_t weights = 0;
};

/// A tensor of the model with values that cannot be used.
struct DamagedTensor {
  std::string name, error;
  std::int64_t n_values = 0;  ///< that counted as 0 in calibration
};

/// What a text gave to calibration.
struct TextRow {
  std::string path;
  double weight = 1;
  std::int64_t windows = 0, tokens = 0, text_tokens = 0;
  std::int64_t duplicates = 0;  ///< windows left out, with the tokens of one before
};

/// Tokens that the experts of a block got.
struct CoverageRow {
  std::int64_t block = 0, experts = 0, covered = 0, least = 0, median = 0;
};

struct RunSection {
  std::string label, directory, method;
  core::Json identity;  ///< run.json
  double true_bits = 0, nominal_bits = 0, mean_relative_error = 0;
  std::map<std::string, double> stage_seconds;
  std::int64_t ranks = 0, starts = 0, peak_memory_bytes = 0;
  std::int64_t n_tasks = 0;  ///< of the quantize stage
  double task_seconds = 0, waiting_seconds = 0,
         coordinator_seconds = 0;  ///< rank-seconds in and between them; CPU time
  RunHistory history;
  core::Json tuning = core::Json::array();  ///< a phase each: its text, `points` and `ended`, as the journal has them
  std::vector<TextRow> texts;
  std::vector<CoverageRow> coverage;
  std::vector<LayerRow> layers;
  std::vector<UnquantizedLinear> unquantized;   ///< counted in true_bits, not in nominal_bits
  std::map<std::string, std::string> failures;  ///< task, layer or tensor -> error
  std::vector<DamagedTensor> damaged;
};

struct Report {
  std::vector<ReportRow> rows;
  std::vector<RunSection> runs;
  QuotedTable quoted;  ///< figures of papers; no rows: none
};

core::Json report_json(const Report& report);
std::string report_markdown(const Report& report);

}  // namespace voronoi::validation
