// What the stages of a run do on all ranks together: the quantities that a run counts and journals.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "calib/footprint.h"
#include "core/work_counts.h"
#include "planning/plan.h"
#include "planning/window_schedule.h"
#include "quant/cost.h"
#include "quant/rules.h"
#include "run/settings.h"

namespace voronoi::planning {

/// Bytes of a weight in the model's files, 2 where they are not there. Headers add a little to files of one type.
double stored_bytes_a_weight(const PlanRequest& request);

/// Sites with linears that are to be quantized, and these.
std::vector<SiteTask> tasks_of(const model::ModelConfig& config, const quant::RunParameters& parameters,
                               std::int64_t first, std::int64_t last);

/// How many ranks share a task, by SiteTask::kind(): the least of that kind in a window of so many blocks.
std::map<std::string, int> task_widths(const PlanRequest& request, const quant::RunParameters& parameters,
                                       std::int64_t blocks);

/// Of a run that is neither stopped nor killed, with experts that share the tokens evenly. Loops that stop by
/// themselves are counted as often as they usually go on.
struct RunWork {
  core::WorkCounts weighing, collecting;  ///< both of the stage calibrate
  core::WorkCounts quantizing;
  double gram = 0;                ///< as calib::BlockWork
  quant::Work factor;             ///< by one member of each team
  quant::OperatorWork operators;  ///< of all of them
};
RunWork run_work(const PlanRequest& request, const quant::RunParameters& parameters,
                 const std::map<std::string, int>& widths);

}  // namespace voronoi::planning
