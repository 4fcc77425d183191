#include "stages/tuning_phase.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "comm/agreement.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "model/block_norms.h"
#include "tune/distillation.h"
#include "tune/footprint.h"
#include "tune/loss_sum.h"
#include "tune/weight_update.h"

namespace voronoi::stages {
namespace {

/// States of a descent that are kept on its way. Those of moving codes are large, and their buffers settle there.
constexpr std::int64_t kKept = 32, kKeptWithCodes = 8;

}  // namespace

TuningPhase::TuningPhase(Work& work, std::string name, std::int64_t base, std::int64_t norm_base)
    : work_(work), name_(std::move(name)), base_(base), norm_base_(norm_base), source_(make_source(base)) {
  const tune::Sequences& sequences = work.inputs.tuning_sequences;
  const auto n = std::ssize(sequences.training) / sequences.batch * work.settings.tune_passes;
  plan_.n_steps = n;
  plan_.look_every = std::max<std::int64_t>(1, (n + run::kTuningLooks - 1) / run::kTuningLooks);
  plan_.keep_every = std::max<std::int64_t>(1, n / (moves_codes() ? kKeptWithCodes : kKept));
  const auto& config = work.config();
  comm::on_root(work.world, [&] { nominal_bits_ = run::nominal_bits(work_.run.state); });
  nominal_bits_ = tune::agreed_number(work.world, nominal_bits_);
  double own = name_ == kWeightsPhase ? tune::weight_rate(nominal_bits_, config.hidden_size)
                                      : tune::default_learning_rate(nominal_bits_, config.hidden_size);
  if (name_ == kCodesPhase) own *= tune::rate_beside_codes(config.hidden_size);
  plan_.learning_rate = work.settings.tune_learning_rate > 0 ? work.settings.tune_learning_rate : own;
}

void TuningPhase::run() {
  find_pending();
  core::Json settings;  // rank 0
  comm::on_root(work_.world, [&] {
    settings = settings_json();
    check_settings(settings);
  });
  if (pending_.empty()) return;
  begin(settings);
  descend();
}

std::unique_ptr<run::RunSource> TuningPhase::make_source(std::int64_t generation) const {
  run::Published published;
  for (const model::LinearSpec& linear : model::block_linears(config()))
    if (is_quantized(linear)) published.linears[linear.name] = generation;
  if (generation > 0)
    for (std::int64_t layer = 0; layer < config().n_layers; ++layer)
      for (const std::string& norm : norm_names(layer)) published.tensors[norm] = generation;
  return std::make_unique<run::RunSource>(*work_.inputs.model, work_.run.paths, std::move(published));
}

std::vector<std::string> TuningPhase::norm_names(std::int64_t layer) const {
  model::BlockNormSizes sizes(config());
  std::vector<std::string> names;
  model::for_each_norm(config(), layer, sizes, [&](const std::string& name, std::int64_t) { names.push_back(name); });
  return names;
}

std::vector<std::string> TuningPhase::linear_names(std::int64_t layer) const {
  std::vector<std::string> names;
  for (const model::SiteSpec& site : model::block_sites(config(), layer))
    for (const model::LinearSpec& linear : site.linears)
      if (is_quantized(linear)) names.push_back(linear.name);
  return names;
}

bool TuningPhase::lacks_tensor(const std::string& name, std::int64_t generation) const {
  const auto found = work_.run.state.tensors.find(name);
  return found == work_.run.state.tensors.end() || found->second.generation < generation;
}

void TuningPhase::find_pending() {
  std::string pending(static_cast<std::size_t>(config().n_layers) + 1, '0');
  comm::on_root(work_.world, [&] {
    for (std::int64_t layer = 0; layer < config().n_layers; ++layer) {
      const std::vector<std::string> linears = linear_names(layer), norms = norm_names(layer);
      if (std::any_of(linears.begin(), linears.end(), [&](const auto& name) { return lacks_layer(name); }) ||
          std::any_of(norms.begin(), norms.end(), [&](const auto& name) { return lacks_tensor(name, base_ + 1); }))
        pending[static_cast<std::size_t>(layer)] = '1';
    }
    if (name_ != kBlockPhase && lacks_tensor(tune::Distillation::kFinalNorm, norm_base_ + 1)) pending.back() = '1';
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

core::Json TuningPhase::settings_json() const {
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
  if (dtype() != core::DType::f32) settings["dtype"] = work_.settings.tune_dtype;
  if (name_ == kCodesPhase) {
    settings["buffer_rate"] = fmt::format("{:.17g}", tune::buffer_rate(nominal_bits_, config().hidden_size));
    settings["recoded_share"] = tune::kRecodedShare;
  }
  return settings;
}

void TuningPhase::check_settings(const core::Json& now) const {
  const auto before = work_.run.state.tuning.find(name_);
  if (before != work_.run.state.tuning.end() && before->second.begun.settings != now &&
      before->second.begun.settings.at("layers") == now.at("layers"))
    throw core::ConfigError(
        fmt::format("--tune-phases: {} of this run began with other text or settings ({}, now {}); give those of "
                    "then, or use another --run with --hessians-from",
                    name_, before->second.begun.settings.dump(), now.dump()));
}

void TuningPhase::begin(const core::Json& settings) {
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

std::optional<format::Encoding> TuningPhase::read_base(const std::string& linear) const {
  if (work_.run.parameters.of(linear) == nullptr) return std::nullopt;
  return run::read_layer(work_.run.paths, linear, base_);
}

tune::Descent TuningPhase::calls(std::int64_t block) {
  tune::Descent calls;
  calls.stop = [this] { return work_.stop_agreed(); };
  calls.point = [this, block](const tune::DescentPoint& point) {
    if (work_.world.rank() != 0) return;
    const bool finite = std::isfinite(point.held_out_loss);
    work_.run.append(run::TuningPoint{name_, block, point.step, point.training_loss, finite ? point.held_out_loss : 0.0,
                                      point.learning_rate, !finite});
    core::log_debug("tuning ({}{}): step {}, held-out loss {:.5f}, training loss {:.5f}", name_,
                    block < 0 ? "" : fmt::format(", block {}", block + 1), point.step, point.held_out_loss,
                    point.training_loss);
    held_out_ = point.held_out_loss;
  };
  calls.keep = [](const tune::DescentState&) {};
  return calls;
}

void TuningPhase::publish(std::int64_t layer, const tune::BlockResult& result, double seconds) {
  const store::Start& start = *work_.run.start;
  for (const auto& [name, encoding] : result.linears) {
    if (!lacks_layer(name)) continue;
    const run::NextGeneration next = run::next_layer_generation(work_.run.state, name);
    run::LayerRecord record = work_.run.state.layers.at(name);
    record.stored_bits = format::stored_bits(encoding);
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

void TuningPhase::publish_norm(const std::string& name, std::int64_t generation, std::span<const float> values) {
  if (!lacks_tensor(name, generation)) return;
  const run::NextGeneration next = run::next_tensor_generation(work_.run.state, name);
  const std::string sha256 = run::write_tensor(*work_.run.start, name, next.generation, {std::ssize(values)}, values);
  work_.run.add(run::TensorRecord{name, sha256, next.generation, work_.run.state.start, next.parent});
}

void TuningPhase::journal_end(std::int64_t block, tune::DescentEnd end, const tune::DescentState& state,
                              double seconds) {
  if (work_.world.rank() != 0) return;
  work_.run.append(run::TuningEnded{name_, block, std::string(tune::name_of(end)), state.step, state.best_step,
                                    state.fallbacks, state.first_loss, state.best_loss, seconds});
}

void TuningPhase::show(const std::string& doing, double predicted, double elapsed, double share) {
  if (work_.world.rank() != 0) return;
  const double left =
      share > 0 ? elapsed * (1 - share) / share : work_.clock.corrected(kTuneStage, predicted) - elapsed;
  work_.clock.under_way(kTuneStage, predicted, elapsed, std::max(left, 0.0));
  core::show_progress(fmt::format("tuning ({}): {}{}{}", name_, doing,
                                  held_out_ > 0 ? fmt::format(", held-out loss {:.4f}", held_out_) : "",
                                  left_text(work_.clock.left())));
  work_.tell(kTuneStage, name_ + ", " + doing);
}

}  // namespace voronoi::stages
