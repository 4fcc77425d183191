// What the stages of one start work on together, and what they tell of their progress.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "backend/device.h"
#include "comm/mpi.h"
#include "core/json.h"
#include "planning/rates.h"
#include "planning/window_schedule.h"
#include "run/run.h"
#include "run/settings.h"
#include "stages/inputs.h"
#include "stages/progress.h"
#include "store/run_directory.h"

namespace voronoi::stages {

using Clock = std::chrono::steady_clock;

/// On every rank. The references must outlive it.
class Work {
 public:
  Work(const comm::Communicator& world, backend::Context& context, const run::Settings& settings, const Inputs& inputs,
       run::Run& run);
  /// Calibration and quantization of several runs that differ in method and settings alone: `run` holds their Hessians
  /// and tells of all of them, the layers are the members'. One or more.
  Work(const comm::Communicator& world, backend::Context& context, const run::Settings& settings, const Inputs& inputs,
       run::Run& run, std::vector<run::Run*> members);

  const model::ModelConfig& config() const { return inputs.model->config(); }
  bool sequential() const { return settings.calibration == "sequential"; }
  /// The Hessians are those of another run (--hessians-from).
  bool has_foreign_hessians() const { return !settings.hessians_from.empty(); }

  /// The run has no layers of its own.
  bool is_shared() const { return members.front() != &run; }
  /// The run and its members, each once.
  std::vector<run::Run*> all_runs() const;

  std::vector<planning::SiteTask> all_tasks(std::int64_t block) const;
  /// Sites of the block with linears that are to be quantized and not done: of each member those that it lacks.
  std::vector<planning::SharedTask> pending_tasks(std::int64_t block) const;
  bool has_pending_from(std::int64_t block) const;
  /// Whether any linear of the site is to be quantized, by any member.
  bool takes_hessian(std::int64_t block, const std::string& site) const;
  /// Whether a site's Hessian is on disk and fits. One of this run that is damaged is set aside; one of another run
  /// that is missing or damaged throws.
  bool is_hessian_ready(const planning::SiteTask& task) const;

  /// Collective: whether a stop was requested on any rank; then sets `stopped`.
  bool stop_agreed();
  /// Wall time since `begin` spent in a stage; collective.
  void journal_time(const char* stage, Clock::time_point begin);

  /// Largest resident set of any rank so far, in bytes; collective.
  std::int64_t peak_memory() const;

  /// Of the members.
  planning::ParametersOfRuns parameters() const;
  calib::HessianKind hessian_kind() const { return run::hessian_kind(settings); }
  /// Linears of all members that are quantized, and that there are; rank 0.
  std::int64_t layers_done() const;
  std::int64_t layers_wanted() const { return std::accumulate(n_layers.begin(), n_layers.end(), std::int64_t{0}); }

  /// Predicted wall seconds of a task on all ranks.
  double wall_seconds(const planning::SharedTask& task) const;
  /// The run as `status` is to see it, at work in a stage; rank 0.
  run::Heartbeat heartbeat(const char* stage, const std::string& doing) const;
  /// What the heartbeat says from now on; rank 0. `doing`: for people, "block 3/32".
  void tell(const char* stage, const std::string& doing, core::Json workers = core::Json::array()) const;

  const comm::Communicator& world;
  backend::Context& context;
  const run::Settings& settings;
  const Inputs& inputs;
  run::Run& run;
  std::vector<run::Run*> members;  ///< whose layers are made: the run itself, or others
  planning::Rates
      rates;  ///< first guesses, the same on every rank; the cost model corrects them from the first task on
  store::RunPaths hessians;            ///< the run directory that holds the Hessians
  std::vector<std::int64_t> n_layers;  ///< linears that are to be quantized, of each member
  bool stopped = false;                ///< on request, resumable; the same on every rank

  // Of the progress that rank 0 tells.
  StageClock clock;
  std::map<std::int64_t, double> predicted_quantize;  ///< wall_seconds() of the tasks open at this start, by block
  double tokens_per_second = 0;                       ///< through the last block that was calibrated; 0: outside
  std::int64_t tasks_done = 0;                        ///< of this start
};

}  // namespace voronoi::stages
