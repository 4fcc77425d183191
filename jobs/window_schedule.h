// Site tasks as the scheduler sees them: what `quantize` runs and what `plan` simulates.
#pragma once

#include <cstdint>
#include <vector>

#include "jobs/rates.h"
#include "jobs/site_task.h"
#include "sched/scheduler.h"

namespace voronoi::jobs {

/// One task a site task, ids by place in the list, seconds by the rates. team_size 0 chooses widths by cost.
std::vector<sched::Task> window_tasks(const std::vector<SiteTask>& site_tasks, const quant::QuantParameters& parameters,
                                      const Rates& rates, int n_ranks, std::int64_t team_size);

/// Predicted seconds of one rank alone with the task, reading the Hessian included.
double task_seconds(const SiteTask& task, const quant::QuantParameters& parameters, const Rates& rates);

}  // namespace voronoi::jobs
