// All numbers of the packed model tuned by its divergence from the unquantized one, codes with them where they may
// move; or the weights behind the codes, and norms.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "comm/agreement.h"
#include "core/error.h"
#include "core/log.h"
#include "stages/site_task.h"
#include "stages/tuning_phase.h"
#include "stages/tuning_state.h"
#include "tune/code_update.h"
#include "tune/distillation.h"
#include "tune/footprint.h"
#include "tune/weight_update.h"

namespace voronoi::stages {
namespace {

class WholeModelPhase final : public TuningPhase {
 public:
  using TuningPhase::TuningPhase;

 private:
  void descend() override {
    const Clock::time_point start = Clock::now();
    const tune::Sequences& sequences = work_.inputs.tuning_sequences;
    const model::Windows& windows = work_.inputs.tuning_windows;
    const auto ranks = static_cast<double>(work_.world.size());
    const double held_out = static_cast<double>(sequences.held_out.size());
    model::Transformer student(*source_, work_.context, dtype());
    // The student's own final norm stays the model's, which the teacher's states go through.
    std::vector<float> norm;
    if (norm_base_ > 0) {
      norm.resize(static_cast<std::size_t>(config().hidden_size));
      run::read_tensor(work_.run.paths, {tune::Distillation::kFinalNorm, {config().hidden_size}}, norm_base_, norm);
    }
    tune::Distillation distillation(
        work_.context, work_.world, student, [this](const std::string& linear) { return read_base(linear); }, norm,
        windows, sequences, seed(), std::nullopt,
        name_ == kWeightsPhase ? tune::PackedParts::followers : tune::PackedParts::numbers);
    const tune::TuneWork work = tune::end_to_end_work(config(), windows.context, sequences, distillation.residence());
    const double stepping = seconds_of(work.step) * static_cast<double>(plan_.n_steps * sequences.batch) / ranks,
                 looking = seconds_of(work.held_out) * held_out * (run::kTuningLooks + 1) / ranks,
                 teaching = seconds_of(work.teacher) / ranks;
    work_.clock.expect(kTuneStage, stepping + looking + teaching);
    std::unique_ptr<tune::MovingCodes> codes = moving_codes(distillation);
    tune::DescentState state;
    if (!find_state(distillation, state, codes)) {
      state = {};
      state.values = distillation.initial();
    }
    if (codes) distillation.move_codes(*codes);
    tune::DescentEnd end = tune::DescentEnd::finished;
    if (state.step < plan_.n_steps || state.looked_at < state.step) {
      {
        model::Transformer teacher(*work_.inputs.model, work_.context, dtype());
        distillation.teach(teacher, [&](std::int64_t done, std::int64_t all) {
          show(fmt::format("the unquantized model, {}/{}", done, all), teaching,
               std::chrono::duration<double>(Clock::now() - start).count(),
               static_cast<double>(done) / static_cast<double>(all));
        });
      }
      work_.clock.done(kTuneStage, teaching, std::chrono::duration<double>(Clock::now() - start).count());
      if (work_.stop_agreed()) return;
      if (name_ == kWeightsPhase) {
        const double confidence = distillation.confidence();
        distillation.mix_in_reverse(confidence);
        comm::on_root(work_.world, [&] {
          core::log_info("tuning ({}): the unquantized model's mean confidence is {:.4f}", name_, confidence);
        });
      }
      const Clock::time_point descent = Clock::now();
      const std::int64_t first = state.step;
      tune::Descent descent_calls = calls(-1);
      descent_calls.differentiate = [&](std::int64_t step, std::span<const float> values,
                                        std::vector<float>& gradient) {
        if (codes)
          codes->set_rate(codes_rate() * tune::schedule(step, plan_.n_steps) *
                          std::exp2(-static_cast<double>(state.fallbacks)));
        return distillation.differentiate(step, values, gradient);
      };
      double looks = 0;
      descent_calls.held_out = [&](std::span<const float> values) {
        const double loss = distillation.held_out_loss(values);
        ++looks;
        return loss;
      };
      descent_calls.rounded = [&](std::span<const float> values) { return distillation.rounded(values); };
      descent_calls.stepped = [&](std::int64_t step, double) {
        work_.tokens_per_second = static_cast<double>((step - first) * sequences.batch * windows.context) /
                                  std::chrono::duration<double>(Clock::now() - descent).count();
        const double a_step = stepping / static_cast<double>(plan_.n_steps),
                     all = a_step * static_cast<double>(plan_.n_steps - first) + looking,
                     done = a_step * static_cast<double>(step - first) + looking * looks / (run::kTuningLooks + 1);
        show(fmt::format("step {}/{}", step, plan_.n_steps), stepping + looking,
             std::chrono::duration<double>(Clock::now() - descent).count(), std::min(1.0, done / all));
      };
      descent_calls.keep = [&](const tune::DescentState& now) { keep(now, codes.get()); };
      if (codes) {
        descent_calls.follow = [&](std::span<const float> values) {
          codes->recode(values, [&](std::span<const float> all, std::size_t b) { return distillation.part(all, b); });
        };
        descent_calls.best_found = [&] { codes->keep_best(); };
        descent_calls.went_back = [&] { codes->go_back(); };
      }
      end = tune::descend(work_.context.pool(), distillation.segments(), plan_, descent_calls, state);
      if (end == tune::DescentEnd::stopped) return;
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      work_.clock.done(kTuneStage, stepping + looking, seconds);
      journal_end(-1, end, state, seconds);
      if (codes) codes->go_back();
      comm::on_root(work_.world, [&] {
        // What is published again, should a file of it be lost.
        tune::DescentState last = state;
        last.values = state.best;
        last.adam = {};
        last.step = last.looked_at = plan_.n_steps;
        write_state(last, codes.get());
        if (codes) remove_tuning_buffers(*work_.run.start, config().n_layers, std::nullopt);
        core::log_info("tuned ({}, {}): held-out loss {:.4f} before, {:.4f} after {} of {} steps", name_,
                       tune::name_of(end), state.first_loss, state.best_loss, state.best_step, state.step);
      });
    }
    comm::on_root(work_.world, [&] {
      const double seconds =
          std::chrono::duration<double>(Clock::now() - start).count() / static_cast<double>(config().n_layers);
      for (std::int64_t layer = 0; layer < config().n_layers; ++layer)
        if (pending_.contains(layer)) publish(layer, distillation.result(layer, state.best), seconds);
      publish_norm(tune::Distillation::kFinalNorm, norm_base_ + 1, distillation.final_norm(state.best));
      work_.run.journal->commit();
    });
  }

  /// Null where codes stay.
  std::unique_ptr<tune::MovingCodes> moving_codes(const tune::Distillation& distillation) {
    if (name_ == kCodesPhase)
      return std::make_unique<tune::CodeUpdate>(work_.context, work_.world, work_.inputs.tuning_sequences,
                                                distillation.blocks());
    if (name_ == kWeightsPhase)
      return std::make_unique<tune::WeightUpdate>(
          work_.context, work_.world, distillation.blocks(), [this](const tune::TunedBlock::Linear& linear) {
            return read_weight(work_.inputs, linear.name, linear.out_features, linear.in_features);
          });
    return nullptr;
  }

  double codes_rate() const {
    return name_ == kWeightsPhase ? plan_.learning_rate : tune::buffer_rate(nominal_bits_, config().hidden_size);
  }

  /// Collective. codes: null where they stay.
  void keep(const tune::DescentState& state, tune::MovingCodes* codes) {
    if (codes != nullptr) {
      // Only where an unbroken descent has its buffers settled too: a stop elsewhere goes back to the state before.
      if (state.step % plan_.keep_every != 0 && state.step % plan_.look_every != 0 && state.step != plan_.n_steps)
        return;
      codes->settle();
      comm::together(work_.world,
                     [&] { write_tuning_buffers(*work_.run.start, settings_, state.step, config().n_layers, *codes); });
    }
    comm::on_root(work_.world, [&] {
      write_state(state, codes);
      if (codes != nullptr) remove_tuning_buffers(*work_.run.start, config().n_layers, state.step);
    });
  }

  /// Rank 0.
  void write_state(const tune::DescentState& state, tune::MovingCodes* codes) const {
    TuningCodes kept;
    if (codes != nullptr) kept = {codes->codes(), codes->best()};
    write_tuning_state(*work_.run.start, name_, settings_, state, codes != nullptr ? &kept : nullptr);
  }

  /// The state that an earlier start kept, on every rank; false: there is none that can be used, `state` holds nothing
  /// of use. codes: null where they stay.
  bool find_state(const tune::Distillation& distillation, tune::DescentState& state,
                  std::unique_ptr<tune::MovingCodes>& codes) {
    std::string found = "0";
    TuningCodes kept;
    if (codes != nullptr) kept.now = kept.best = codes->codes();
    const auto read = [&] {
      return read_tuning_state(work_.run.paths, name_, settings_, distillation.initial().size(),
                               codes != nullptr ? &kept : nullptr);
    };
    comm::on_root(work_.world, [&] {
      const auto file = work_.run.paths.tuning_state(name_);
      if (!std::filesystem::exists(file)) return;
      try {
        state = read();
        found = "1";
      } catch (const core::FormatError& error) {
        core::log_warning("{}; moved to {}, tuning begins anew", error.what(),
                          work_.run.start->quarantine(file).string());
      }
    });
    found = work_.world.broadcast(found, 0);
    if (found != "1") return false;
    if (work_.world.rank() != 0) state = read();
    if (codes == nullptr) return true;
    std::int64_t lost = 0;
    try {
      if (state.step < plan_.n_steps)
        read_tuning_buffers(work_.run.paths, settings_, state.step, config().n_layers, *codes);
    } catch (const core::FormatError& error) {
      core::log_warning("{}; tuning begins anew", error.what());
      lost = 1;
    }
    if (work_.world.all_max(lost) > 0) {
      codes = moving_codes(distillation);
      return false;
    }
    codes->set_codes(kept.now);
    if (work_.world.rank() == 0) codes->best() = std::move(kept.best);
    return true;
  }
};

}  // namespace

std::unique_ptr<TuningPhase> whole_model_phase(Work& work, const std::string& name, std::int64_t base,
                                               std::int64_t norm_base) {
  return std::make_unique<WholeModelPhase>(work, name, base, norm_base);
}

}  // namespace voronoi::stages
