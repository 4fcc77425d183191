// Blocks tuned one after the other, each by the error of what leaves it.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "comm/agreement.h"
#include "stages/tuning_phase.h"
#include "tune/block_tuning.h"
#include "tune/footprint.h"

namespace voronoi::stages {
namespace {

class BlockPhase final : public TuningPhase {
 public:
  BlockPhase(Work& work, std::int64_t base, std::int64_t norm_base) : TuningPhase(work, kBlockPhase, base, norm_base) {}

 private:
  void descend() override {
    const tune::Sequences& sequences = work_.inputs.tuning_sequences;
    const model::Windows& windows = work_.inputs.tuning_windows;
    const auto predicted = [&](std::int64_t layer) {
      const tune::TuneWork work = tune::block_work(config(), layer, windows.context, sequences);
      double operations = work.teacher;
      if (pending_.contains(layer))
        operations += work.step * static_cast<double>(plan_.n_steps * sequences.batch) +
                      work.held_out * static_cast<double>(sequences.held_out.size()) * (run::kTuningLooks + 1);
      return seconds_of(operations) / work_.world.size();
    };
    const std::int64_t last = *pending_.rbegin();
    for (std::int64_t layer = 0; layer <= last; ++layer) work_.clock.expect(kTuneStage, predicted(layer));
    const std::unique_ptr<run::RunSource> tuned = make_source(base_ + 1);
    model::Transformer teacher(*work_.inputs.model, work_.context, dtype()), student(*source_, work_.context, dtype()),
        finished(*tuned, work_.context, dtype());
    tune::BlockTuning tuning(work_.context, work_.world, teacher, windows, sequences, seed());
    for (std::int64_t layer = 0; layer <= last; ++layer) {
      if (work_.stop_agreed()) return;
      const Clock::time_point start = Clock::now();
      const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
      const std::string doing = fmt::format("block {}/{}", layer + 1, config().n_layers);
      held_out_ = 0;
      show(doing, predicted(layer), 0, 0);
      tuning.advance_teacher(teacher.load_block(layer));
      if (!pending_.contains(layer)) {
        tuning.advance_student(finished.load_block(layer));
        work_.clock.done(kTuneStage, predicted(layer), elapsed());
        continue;
      }
      tune::TunedBlock block(work_.context, student, layer,
                             [this](const std::string& linear) { return read_base(linear); });
      tune::DescentState state;
      state.values = block.initial();
      tune::Descent descent_calls = calls(layer);
      descent_calls.differentiate = [&](std::int64_t step, std::span<const float> values,
                                        std::vector<float>& gradient) {
        return tuning.differentiate(block, step, values, gradient);
      };
      descent_calls.held_out = [&](std::span<const float> values) { return tuning.held_out_loss(block, values); };
      descent_calls.rounded = [&](std::span<const float> values) { return block.rounded(values); };
      descent_calls.stepped = [&](std::int64_t step, double) {
        show(doing, predicted(layer), elapsed(), static_cast<double>(step) / static_cast<double>(plan_.n_steps));
      };
      const tune::DescentEnd end = tune::descend(work_.context.pool(), block.segments(), plan_, descent_calls, state);
      if (end == tune::DescentEnd::stopped) return;
      journal_end(layer, end, state, elapsed());
      comm::on_root(work_.world, [&] { publish(layer, block.result(state.best), elapsed()); });
      tuning.advance_student(block, state.best);
      work_.clock.done(kTuneStage, predicted(layer), elapsed());
    }
  }
};

}  // namespace

std::unique_ptr<TuningPhase> block_phase(Work& work, std::int64_t base, std::int64_t norm_base) {
  return std::make_unique<BlockPhase>(work, base, norm_base);
}

}  // namespace voronoi::stages
