// Site tasks as the scheduler sees them: what `quantize` runs and what `plan` simulates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "calib/footprint.h"
#include "model/config.h"
#include "planning/rates.h"
#include "quant/cost.h"
#include "quant/rules.h"
#include "sched/scheduler.h"

namespace voronoi::planning {

/// A task of the quantization stage: a block's site, that is one Hessian and the operators that share it.
struct SiteTask {
  std::int64_t block = 0;
  model::SiteSpec site;  ///< its linears are those that are not done yet
  /// Tasks of one kind cost alike: experts are not told apart.
  std::string kind() const { return site.expert < 0 ? site.name : "expert" + site.name.substr(site.name.rfind('.')); }
  std::string name() const { return "block " + std::to_string(block) + " " + site.name; }
};

/// What several runs make of one site, whose Hessian is read once for all of them.
struct SharedTask {
  struct Part {
    std::size_t run = 0;  ///< place in the list of the runs
    SiteTask task;
  };
  std::vector<Part> parts;  ///< one or more, of the same block and site, runs rising
  /// For all that does not depend on the run.
  const SiteTask& site() const { return parts.front().task; }
};

/// Of each run, in the order of the list that SharedTask::Part::run goes by.
using ParametersOfRuns = std::vector<const quant::RunParameters*>;

/// A linear that is to be quantized for a part of a shared task.
struct PartLinear {
  std::size_t part = 0;  ///< place in SharedTask::parts
  const model::LinearSpec* linear = nullptr;
};
/// The task's linears by the prepared site that they take: one Hessian is factored a group. In the order of their
/// first; the task must outlive them.
std::vector<std::vector<PartLinear>> alike_linears(const SharedTask& task, const ParametersOfRuns& parameters);

/// One task a shared task, ids by place in the list, seconds by the rates. team_size 0 chooses widths by cost.
std::vector<sched::Task> window_tasks(const std::vector<SharedTask>& shared_tasks, const ParametersOfRuns& parameters,
                                      calib::HessianKind hessians, const Rates& rates, int n_ranks,
                                      std::int64_t team_size);
/// Of a single run.
std::vector<sched::Task> window_tasks(std::vector<SiteTask> site_tasks, const quant::RunParameters& parameters,
                                      calib::HessianKind hessians, const Rates& rates, int n_ranks,
                                      std::int64_t team_size);

/// Predicted seconds of one rank alone with the task, reading the Hessian included.
double task_seconds(const SharedTask& task, const ParametersOfRuns& parameters, calib::HessianKind hessians,
                    const Rates& rates);

/// Of choosing the metrics of a task and factoring them, which one member of a team does for all.
quant::Work preparation_work(const SharedTask& task, const ParametersOfRuns& parameters, calib::HessianKind hessians);
/// What each other member of a team receives of that.
double preparation_bytes(const SharedTask& task, const ParametersOfRuns& parameters, calib::HessianKind hessians);

}  // namespace voronoi::planning
