// The stage that tunes the numbers of packed linears and the norms by gradients: phase after phase of --tune-phases,
// each of which publishes one more generation of every layer.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <set>

#include "comm/agreement.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/whereabouts.h"
#include "model/block_norms.h"
#include "run/layer_store.h"
#include "stages/stage.h"
#include "stages/tuning_state.h"
#include "tune/block_tuning.h"
#include "tune/code_update.h"
#include "tune/distillation.h"
#include "tune/footprint.h"
#include "tune/loss_sum.h"

namespace voronoi::stages {
namespace {

constexpr const char* kName = "tune";
constexpr const char* kBlock = "block";
constexpr const char* kCodes = "codes";
/// States of a descent that are kept on its way. Those of moving codes are large, and their buffers settle there.
constexpr std::int64_t kKept = 32, kKeptWithCodes = 8;

/// One phase: what it starts from is generation `base` of every layer and `norm_base` of the final norm, what it
/// publishes the next.
class Phase {
 public:
  Phase(Work& work, std::string name, std::int64_t base, std::int64_t norm_base)
      : work_(work), name_(std::move(name)), base_(base), norm_base_(norm_base), source_(make_source(base)) {
    const tune::Sequences& sequences = work.inputs.tuning_sequences;
    const auto n = std::ssize(sequences.training) / sequences.batch * work.settings.tune_passes;
    plan_.n_steps = n;
    plan_.look_every = std::max<std::int64_t>(1, (n + run::kTuningLooks - 1) / run::kTuningLooks);
    plan_.keep_every = std::max<std::int64_t>(1, n / (name_ == kCodes ? kKeptWithCodes : kKept));
    const auto& config = work.config();
    comm::on_root(work.world, [&] { nominal_bits_ = run::nominal_bits(work_.run.state); });
    nominal_bits_ = tune::agreed_number(work.world, nominal_bits_);
    double own = tune::default_learning_rate(nominal_bits_, config.hidden_size);
    if (name_ == kCodes) own *= tune::rate_beside_codes(config.hidden_size);
    plan_.learning_rate = work.settings.tune_learning_rate > 0 ? work.settings.tune_learning_rate : own;
  }

  void run() {
    find_pending();
    core::Json settings;  // rank 0
    comm::on_root(work_.world, [&] {
      settings = settings_json();
      check_settings(settings);
    });
    if (pending_.empty()) return;
    begin(settings);
    if (name_ == kBlock)
      run_blocks();
    else
      run_end_to_end();
  }

 private:
  model::ModelConfig const& config() const { return work_.config(); }
  bool is_quantized(const model::LinearSpec& linear) const { return work_.run.parameters.of(linear.name) != nullptr; }

  /// The run's layers, and norms of blocks where an earlier phase made them, as of a generation.
  std::unique_ptr<run::RunSource> make_source(std::int64_t generation) const {
    run::Published published;
    for (const model::LinearSpec& linear : model::block_linears(config()))
      if (is_quantized(linear)) published.linears[linear.name] = generation;
    if (generation > 0)
      for (std::int64_t layer = 0; layer < config().n_layers; ++layer)
        for (const std::string& norm : norm_names(layer)) published.tensors[norm] = generation;
    return std::make_unique<run::RunSource>(*work_.inputs.model, work_.run.paths, std::move(published));
  }

  std::vector<std::string> norm_names(std::int64_t layer) const {
    struct {
      int input_norm, feed_forward_norm, attention_out_norm, feed_forward_out_norm, q_norm, k_norm;
    } none{};
    std::vector<std::string> names;
    model::for_each_norm(config(), layer, none, [&](const std::string& name, int) { names.push_back(name); });
    return names;
  }

  std::vector<std::string> linear_names(std::int64_t layer) const {
    std::vector<std::string> names;
    for (const model::SiteSpec& site : model::block_sites(config(), layer))
      for (const model::LinearSpec& linear : site.linears)
        if (is_quantized(linear)) names.push_back(linear.name);
    return names;
  }

  /// Rank 0: whether the newest generation of a layer or norm is older than the phase's.
  bool lacks_layer(const std::string& name) const { return work_.run.state.layers.at(name).generation <= base_; }
  bool lacks_tensor(const std::string& name, std::int64_t generation) const {
    const auto found = work_.run.state.tensors.find(name);
    return found == work_.run.state.tensors.end() || found->second.generation < generation;
  }

  /// Blocks of which something is to be published; the number behind the last stands for the final norm.
  void find_pending() {
    std::string pending(static_cast<std::size_t>(config().n_layers) + 1, '0');
    comm::on_root(work_.world, [&] {
      for (std::int64_t layer = 0; layer < config().n_layers; ++layer) {
        const std::vector<std::string> linears = linear_names(layer), norms = norm_names(layer);
        if (std::any_of(linears.begin(), linears.end(), [&](const auto& name) { return lacks_layer(name); }) ||
            std::any_of(norms.begin(), norms.end(), [&](const auto& name) { return lacks_tensor(name, base_ + 1); }))
          pending[static_cast<std::size_t>(layer)] = '1';
      }
      if (name_ != kBlock && lacks_tensor(tune::Distillation::kFinalNorm, norm_base_ + 1)) pending.back() = '1';
      // A phase makes one generation: what another list of phases made stands in its place.
      const auto begun = work_.run.state.tuning.find(name_);
      const bool other = begun == work_.run.state.tuning.end() ? pending.find('1') == std::string::npos
                                                               : begun->second.begun.base != base_;
      if (other)
        throw core::ConfigError(
            fmt::format("--tune-phases: this run was tuned by other phases than {}; give those of then, or use another "
                        "--run with --hessians-from",
                        work_.settings.tune));
    });
    pending = work_.world.broadcast(pending, 0);
    for (std::size_t i = 0; i < pending.size(); ++i)
      if (pending[i] == '1') pending_.insert(static_cast<std::int64_t>(i));
  }

  /// Everything that decides what the phase makes, the layers that it starts from included.
  core::Json settings_json() const {
    const tune::Sequences& sequences = work_.inputs.tuning_sequences;
    core::Json settings = {{"ids", core::sha256(std::as_bytes(std::span(work_.inputs.tuning_windows.ids)))},
                           {"context", work_.inputs.tuning_windows.context},
                           {"sequences", sequences.training.size()},
                           {"held_out", sequences.held_out.size()},
                           {"batch", sequences.batch},
                           {"passes", work_.settings.tune_passes},
                           {"learning_rate", fmt::format("{:.17g}", plan_.learning_rate)},
                           {"seed", seed()},
                           {"layers", digest_of_generation(work_.run.state, base_)}};
    if (name_ == kCodes) {
      settings["buffer_rate"] = fmt::format("{:.17g}", tune::buffer_rate(nominal_bits_, config().hidden_size));
      settings["recoded_share"] = tune::kRecodedShare;
    }
    return settings;
  }

  /// Rank 0: the phase may not have begun with others.
  void check_settings(const core::Json& now) const {
    const auto before = work_.run.state.tuning.find(name_);
    if (before != work_.run.state.tuning.end() && before->second.begun.settings != now &&
        before->second.begun.settings.at("layers") == now.at("layers"))
      throw core::ConfigError(
          fmt::format("--tune-phases: {} of this run began with other text or settings ({}, now {}); give those of "
                      "then, or use another --run with --hessians-from",
                      name_, before->second.begun.settings.dump(), now.dump()));
  }

  std::uint64_t seed() const { return static_cast<std::uint64_t>(work_.run.parameters.of_run().seed); }

  void begin(const core::Json& settings) {
    comm::on_root(work_.world, [&] {
      const tune::Sequences& sequences = work_.inputs.tuning_sequences;
      work_.run.append(run::TuningBegun{name_, base_, settings, std::ssize(sequences.training),
                                        std::ssize(sequences.held_out), sequences.batch,
                                        work_.inputs.tuning_windows.context, plan_.n_steps});
      core::log_info("tuning ({}): {} sequences of {} tokens, {} held out, {} a step, learning rate {:g}", name_,
                     sequences.training.size(), work_.inputs.tuning_windows.context, sequences.held_out.size(),
                     sequences.batch, plan_.learning_rate);
      if (work_.world.size() > sequences.batch)
        core::log_warning("tuning takes {} sequence(s) a step: {} of {} ranks have nothing to do", sequences.batch,
                          work_.world.size() - sequences.batch, work_.world.size());
    });
    settings_ = work_.world.broadcast(settings.dump(), 0);
  }

  std::optional<format::Encoding> read_base(const std::string& linear) const {
    if (work_.run.parameters.of(linear) == nullptr) return std::nullopt;
    return run::read_layer(work_.run.paths, linear, base_);
  }

  /// What all descents of the phase share.
  tune::Descent calls(std::int64_t block) {
    tune::Descent calls;
    calls.stop = [this] { return work_.stop_agreed(); };
    calls.point = [this, block](const tune::DescentPoint& point) {
      if (work_.world.rank() != 0) return;
      const bool finite = std::isfinite(point.held_out_loss);
      work_.run.append(run::TuningPoint{name_, block, point.step, point.training_loss,
                                        finite ? point.held_out_loss : 0.0, point.learning_rate, !finite});
      core::log_debug("tuning ({}{}): step {}, held-out loss {:.5f}, training loss {:.5f}", name_,
                      block < 0 ? "" : fmt::format(", block {}", block + 1), point.step, point.held_out_loss,
                      point.training_loss);
      held_out_ = point.held_out_loss;
    };
    calls.keep = [](const tune::DescentState&) {};
    return calls;
  }

  /// Rank 0: published and journalled unless it is there.
  void publish(std::int64_t layer, const tune::BlockResult& result, double seconds) {
    const store::Start& start = *work_.run.start;
    for (const auto& [name, encoding] : result.linears) {
      if (!lacks_layer(name)) continue;
      const run::NextGeneration next = run::next_layer_generation(work_.run.state, name);
      run::LayerRecord record = work_.run.state.layers.at(name);
      record.parent = next.parent;
      record.generation = next.generation;
      record.start = work_.run.state.start;
      record.rank = 0;
      record.seconds = seconds / static_cast<double>(result.linears.size());
      record.statistics = core::Json::object();
      // The error in the Hessian's metric is that of quantization: tuning goes by another loss.
      record.sha256 = run::write_layer(start, name, next.generation, {encoding, record.relative_error, {}});
      work_.run.add(record);
    }
    for (const auto& [name, values] : result.norms) publish_norm(name, base_ + 1, values);
    work_.run.journal->commit();
    core::log_debug("block {}: generation {} published", layer + 1, base_ + 1);
  }

  void publish_norm(const std::string& name, std::int64_t generation, std::span<const float> values) {
    if (!lacks_tensor(name, generation)) return;
    const run::NextGeneration next = run::next_tensor_generation(work_.run.state, name);
    const std::string sha256 = run::write_tensor(*work_.run.start, name, next.generation, {std::ssize(values)}, values);
    work_.run.add(run::TensorRecord{name, sha256, next.generation, work_.run.state.start, next.parent});
  }

  void journal_end(std::int64_t block, tune::DescentEnd end, const tune::DescentState& state, double seconds) {
    if (work_.world.rank() != 0) return;
    work_.run.append(run::TuningEnded{name_, block, std::string(tune::name_of(end)), state.step, state.best_step,
                                      state.fallbacks, state.first_loss, state.best_loss, seconds});
  }

  void show(const std::string& doing, double predicted, double elapsed, double share) {
    if (work_.world.rank() != 0) return;
    const double left = share > 0 ? elapsed * (1 - share) / share : work_.clock.corrected(kName, predicted) - elapsed;
    work_.clock.under_way(kName, predicted, elapsed, std::max(left, 0.0));
    core::show_progress(fmt::format("tuning ({}): {}{}{}", name_, doing,
                                    held_out_ > 0 ? fmt::format(", held-out loss {:.4f}", held_out_) : "",
                                    left_text(work_.clock.left())));
    work_.tell(kName, name_ + ", " + doing);
  }

  double seconds_of(double operations) const { return operations / work_.rates.gemm; }

  void run_end_to_end() {
    const Clock::time_point start = Clock::now();
    const tune::Sequences& sequences = work_.inputs.tuning_sequences;
    const model::Windows& windows = work_.inputs.tuning_windows;
    const auto ranks = static_cast<double>(work_.world.size());
    const double held_out = static_cast<double>(sequences.held_out.size());
    model::Transformer student(*source_, work_.context, core::DType::f32);
    // The student's own final norm stays the model's, which the teacher's states go through.
    std::vector<float> norm;
    if (norm_base_ > 0) {
      norm.resize(static_cast<std::size_t>(config().hidden_size));
      run::read_tensor(work_.run.paths, {tune::Distillation::kFinalNorm, {config().hidden_size}}, norm_base_, norm);
    }
    tune::Distillation distillation(
        work_.context, work_.world, student, [this](const std::string& linear) { return read_base(linear); }, norm,
        windows, sequences, seed());
    const tune::TuneWork work = tune::end_to_end_work(config(), windows.context, sequences, distillation.residence());
    const double stepping = seconds_of(work.step) * static_cast<double>(plan_.n_steps * sequences.batch) / ranks,
                 looking = seconds_of(work.held_out) * held_out * (run::kTuningLooks + 1) / ranks,
                 teaching = seconds_of(work.teacher) / ranks;
    work_.clock.expect(kName, stepping + looking + teaching);
    std::optional<tune::CodeUpdate> codes;
    if (name_ == kCodes) {
      codes.emplace(work_.context, work_.world, sequences, distillation.blocks());
      distillation.move_codes(*codes);
    }
    tune::DescentState state;
    const bool found = find_state(distillation.initial().size(), state, codes ? &*codes : nullptr);
    if (!found) state.values = distillation.initial();
    tune::DescentEnd end = tune::DescentEnd::finished;
    if (state.step < plan_.n_steps || state.looked_at < state.step) {
      {
        model::Transformer teacher(*work_.inputs.model, work_.context, core::DType::f32);
        distillation.teach(teacher, [&](std::int64_t done, std::int64_t all) {
          show(fmt::format("the unquantized model, {}/{}", done, all), teaching,
               std::chrono::duration<double>(Clock::now() - start).count(),
               static_cast<double>(done) / static_cast<double>(all));
        });
      }
      work_.clock.done(kName, teaching, std::chrono::duration<double>(Clock::now() - start).count());
      if (work_.stop_agreed()) return;
      const Clock::time_point descent = Clock::now();
      const std::int64_t first = state.step;
      tune::Descent descent_calls = calls(-1);
      descent_calls.differentiate = [&](std::int64_t step, std::span<const float> values,
                                        std::vector<float>& gradient) {
        if (codes)
          codes->set_rate(tune::buffer_rate(nominal_bits_, config().hidden_size) * tune::schedule(step, plan_.n_steps) *
                          std::exp2(-static_cast<double>(state.fallbacks)));
        return distillation.differentiate(step, values, gradient);
      };
      descent_calls.held_out = [&](std::span<const float> values) { return distillation.held_out_loss(values); };
      descent_calls.rounded = [&](std::span<const float> values) { return distillation.rounded(values); };
      descent_calls.stepped = [&](std::int64_t step, double) {
        work_.tokens_per_second = static_cast<double>((step - first) * sequences.batch * windows.context) /
                                  std::chrono::duration<double>(Clock::now() - descent).count();
        show(fmt::format("step {}/{}", step, plan_.n_steps), stepping + looking,
             std::chrono::duration<double>(Clock::now() - descent).count(),
             static_cast<double>(step - first) / static_cast<double>(plan_.n_steps - first));
      };
      descent_calls.keep = [&](const tune::DescentState& now) { keep(now, codes ? &*codes : nullptr); };
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
      work_.clock.done(kName, stepping + looking, seconds);
      journal_end(-1, end, state, seconds);
      if (codes) codes->go_back();
      comm::on_root(work_.world, [&] {
        // What is published again, should a file of it be lost.
        tune::DescentState last = state;
        last.values = state.best;
        last.adam = {};
        last.step = last.looked_at = plan_.n_steps;
        write_state(last, codes ? &*codes : nullptr);
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

  /// Collective. codes: null where they stay.
  void keep(const tune::DescentState& state, tune::CodeUpdate* codes) {
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
  void write_state(const tune::DescentState& state, tune::CodeUpdate* codes) const {
    TuningCodes kept;
    if (codes != nullptr) kept = {codes->codes(), codes->best()};
    write_tuning_state(*work_.run.start, name_, settings_, state, codes != nullptr ? &kept : nullptr);
  }

  /// The state that an earlier start kept, on every rank; false: there is none that can be used. codes: null where they
  /// stay.
  bool find_state(std::size_t n_parameters, tune::DescentState& state, tune::CodeUpdate* codes) {
    std::string found = "0";
    TuningCodes kept;
    if (codes != nullptr) kept.now = kept.best = codes->codes();
    const auto read = [&] {
      return read_tuning_state(work_.run.paths, name_, settings_, n_parameters, codes != nullptr ? &kept : nullptr);
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
      state = {};
      codes->drop_buffers();
      return false;
    }
    codes->set_codes(kept.now);
    if (work_.world.rank() == 0) codes->best() = std::move(kept.best);
    return true;
  }

  void run_blocks() {
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
    for (std::int64_t layer = 0; layer <= last; ++layer) work_.clock.expect(kName, predicted(layer));
    const std::unique_ptr<run::RunSource> tuned = make_source(base_ + 1);
    model::Transformer teacher(*work_.inputs.model, work_.context, core::DType::f32),
        student(*source_, work_.context, core::DType::f32), finished(*tuned, work_.context, core::DType::f32);
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
        work_.clock.done(kName, predicted(layer), elapsed());
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
      work_.clock.done(kName, predicted(layer), elapsed());
    }
  }

  Work& work_;
  std::string name_;
  std::int64_t base_, norm_base_;
  double nominal_bits_ = 0;
  std::unique_ptr<run::RunSource> source_;
  tune::DescentPlan plan_;
  std::set<std::int64_t> pending_;
  std::string settings_;
  double held_out_ = 0;  // on rank 0: of the last look
};

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
    Phase(work, name, generation++, of_final_norm).run();
    if (work.stopped) break;
    if (name != kBlock) ++of_final_norm;
  }
  work.journal_time(kName, start);
}

}  // namespace

StageRun begin_tune(Work& work) {
  return [&work](const Window&) { run_tune_stage(work); };
}

}  // namespace voronoi::stages
