// The stage that tunes packed linears and the norms by gradients: phase after phase of --tune-phases,
// each of which publishes one more generation of every layer.
#include "comm/agreement.h"
#include "core/log.h"
#include "stages/stage.h"
#include "stages/tuning_phase.h"

namespace voronoi::stages {
namespace {

void run_tune_stage(Work& work) {
  std::string missing;
  comm::on_root(work.world, [&] {
    for (const model::LinearSpec& linear : model::block_linears(work.config()))
      if (work.run.parameters.of(linear.name) != nullptr && !work.run.state.layers.contains(linear.name)) {
        core::log_warning("not tuned: {} is not quantized", linear.name);
        missing = linear.name;
        return;
      }
  });
  if (!work.world.broadcast(missing, 0).empty()) return;
  const Clock::time_point start = Clock::now();
  std::int64_t generation = 0, of_final_norm = 0;
  for (const std::string& name : run::tune_phases(work.settings)) {
    const auto phase = name == kBlockPhase ? block_phase(work, generation, of_final_norm)
                                           : whole_model_phase(work, name, generation, of_final_norm);
    phase->run();
    ++generation;
    if (work.stopped) break;
    if (name != kBlockPhase) ++of_final_norm;
  }
  work.journal_time(kTuneStage, start);
}

}  // namespace

StageRun begin_tune(Work& work) {
  return [&work](const Window&) { run_tune_stage(work); };
}

}  // namespace voronoi::stages
