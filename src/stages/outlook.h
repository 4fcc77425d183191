// What the next start of a run would do, found out without writing anything.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "planning/plan.h"
#include "run/run_state.h"
#include "run/settings.h"
#include "stages/inputs.h"

namespace voronoi::stages {

struct StageOutlook {
  std::string name;
  bool ended = false;    ///< it came to its end in an earlier start: what it made is looked for, not made again
  std::string left_out;  ///< why it does not run; empty: it does
};

struct Outlook {
  std::int64_t start = 1;  ///< the number that the start would have; above 1 it resumes
  std::vector<StageOutlook> stages;
  std::int64_t layers = 0, layers_done = 0;  ///< linears of the model
  std::int64_t weights_left = 0;             ///< of the linears that are not done
  std::int64_t windows = 0, calibration_tokens = 0;
  std::int64_t disk_bytes = 0;        ///< what the start would write at most, logs and reports aside
  std::int64_t free_bytes = 0;        ///< where it would write
  std::vector<std::string> problems;  ///< that would end the start before it computes
};

/// The run's state as its journal tells it; a new one where there is none. Throws FormatError, StoreError.
run::RunState existing_state(const run::Settings& settings);

/// That a start of the run is alive; nothing otherwise.
std::optional<std::string> run_at_work(const run::Settings& settings, const run::RunState& state);

/// Puts the assignments of --set into the options that a plan is made of: the journal's first, then those given.
/// Throws ConfigError for one that does not fit.
void apply_sets(run::Settings& settings, const run::RunState& state);

/// Looks at the run directory (its place, its identity, whether a start is alive), at stages and what they need, at
/// --hessians-from and at the disk. Damage of files that are there is left to the start, and to `voronoi verify`.
Outlook look_ahead(const run::Settings& settings, const Inputs& inputs, const run::RunState& state,
                   const planning::Plan& plan);

/// For people: lines with units.
std::string outlook_text(const run::Settings& settings, const Outlook& outlook);

}  // namespace voronoi::stages
