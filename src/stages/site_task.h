// One task of the quantization stage: a block's site, that is one Hessian and the operators that share it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/team.h"
#include "planning/window_schedule.h"
#include "run/run.h"
#include "run/settings.h"
#include "stages/inputs.h"

namespace voronoi::stages {

/// Reads the Hessian and publishes shards (the team's rank 0 does both), quantizes the linears of each of `runs` that
/// lacks them. Returns a SiteReport as JSON. What a linear's own numbers forbid (weights that cannot be used,
/// a Hessian without a row, codes that its type cannot hold) gives up that linear alone, and is no failure of the task:
/// another rank would see the same. Nor is a shard that cannot be written: no other rank would fare better, and
/// read_report() throws it. A superseded start ends here, with all its ranks. `hessians`: the run directory that holds
/// them (this run's, or the one named by
/// --hessians-from).
std::string run_site_task(const planning::SharedTask& task, backend::Context& context, core::Team& team,
                          const Inputs& inputs, const std::vector<run::Run*>& runs, const store::RunPaths& hessians);

/// As the model has it, [out_features, in_features]. Throws model::BadValues, StoreError.
std::vector<float> read_weight(const Inputs& inputs, const std::string& linear, std::int64_t out_features,
                               std::int64_t in_features);

/// In the order of the task's parts.
struct SiteReport {
  struct Part {
    std::size_t run = 0;  ///< place in the list
    std::vector<run::LayerRecord> layers;
    std::map<std::string, std::vector<std::string>> failures;  ///< error -> linears that were given up for it
  };
  std::vector<Part> parts;
};
/// A report made by run_site_task. Throws StoreError when a shard could not be written.
SiteReport read_report(const std::string& report);

}  // namespace voronoi::stages
