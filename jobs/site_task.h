// One task of the quantization stage: a block's site, that is one Hessian and the operators that share it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/team.h"
#include "jobs/quantize_setup.h"

namespace voronoi::jobs {

struct SiteTask {
  std::int64_t block = 0;
  model::SiteSpec site;  ///< its linears are those that are not done yet
  /// Tasks of one kind cost alike: experts are not told apart.
  std::string kind() const { return site.expert < 0 ? site.name : "expert" + site.name.substr(site.name.rfind('.')); }
  std::string name() const { return "block " + std::to_string(block) + " " + site.name; }
};

/// Reads the Hessian, quantizes the linears and publishes their shards (the team's rank 0 does). Returns the layer
/// records as JSON, or what keeps a shard from being written: no other rank would fare better, so that is no failure of
/// the task, and read_report() throws it. A superseded attempt ends here, with all its ranks. `hessians`: the run
/// directory that holds them (this run's, or the one named by --hessians-from).
std::string run_site_task(const SiteTask& task, backend::Context& context, core::Team& team, const Inputs& inputs,
                          const Run& run, const store::RunPaths& hessians);

/// Layer records of a report made by run_site_task. Throws StoreError when they could not be written.
std::vector<LayerRecord> read_report(const std::string& report);

}  // namespace voronoi::jobs
