// The stages of a run, in their order. A stage is a unit of its own file and a line of the registry.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "run/settings.h"
#include "stages/work.h"

namespace voronoi::stages {

/// Blocks [first, last).
struct Window {
  std::int64_t first = 0, last = 0;
};

/// A stage at work. Collective; may set Work::stopped, and ends soon after it was set.
using StageRun = std::function<void(const Window&)>;

struct Stage {
  std::string_view name;
  /// Stages whose end must stand in the journal, or come before in this start.
  std::vector<std::string_view> needs;
  /// Goes window after window of blocks, in turn with the neighbours of its kind: each of them on one window before any
  /// on the next, so that what they hand on (Hessians) is on disk for a window only. Other stages get all blocks at
  /// once.
  bool by_windows = false;
  /// Why it is left out unless it is asked for by name; empty: it is not.
  std::vector<std::string> (*reasons_against)(const run::Settings& settings);
  /// Called once, before any window.
  StageRun (*begin)(Work& work);
  /// Nobody is told that it is left out.
  bool on_request = false;
};

const std::vector<Stage>& stages();

/// "calibrate, quantize, ...": for people.
std::string stage_names();
/// Whether a stage is to run: named by --stages, or without that option every one that nothing speaks against.
bool is_wanted(const run::Settings& settings, std::string_view stage);
/// Problems of --stages.
std::vector<std::string> check_stages(const run::Settings& settings);

/// Stages that are wanted, but need one that has not come to its end and is not wanted; empty: none.
std::vector<std::string> unmet_needs(const run::Settings& settings, const run::RunState& state);

/// Runs all that are wanted, journalling each that came to its end; collective. A stage is run again in a later start
/// and finds what is there. What was given up stands in the run's state and journal. Throws ConfigError for a stage
/// whose needs are not met.
void run_stages(Work& work);

/// For stages that take Hessians: where calibration is not wanted, which makes those that are not there, they must be.
/// Collective. Throws ConfigError.
void require_hessians(const Work& work);
/// Sites with linears to quantize whose Hessian is not there, or damaged and set aside; every file is read, by one rank
/// each. Collective. Throws StoreError where another run has to have them.
std::vector<planning::SiteTask> missing_hessians(const Work& work);

StageRun begin_calibrate(Work& work);
StageRun begin_allocate(Work& work);
StageRun begin_quantize(Work& work);
StageRun begin_tune(Work& work);
StageRun begin_export(Work& work);
StageRun begin_validate(Work& work);
StageRun begin_report(Work& work);

}  // namespace voronoi::stages
