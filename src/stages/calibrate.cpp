// The stage that makes Hessians. independent: the inputs of a block come from the original blocks before it, and only
// as far as Hessians are wanted. sequential: the residual stream leaves each block through its quantized weights; for
// asymmetric targets a second one goes through the original blocks beside it.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>

#include "calib/collector.h"
#include "calib/footprint.h"
#include "calib/residual_stream.h"
#include "calib/token_weights.h"
#include "comm/agreement.h"
#include "core/error.h"
#include "core/log.h"
#include "core/stop.h"
#include "model/block_prefetcher.h"
#include "model/mended_source.h"
#include "run/hessian_writer.h"
#include "run/layer_store.h"
#include "run/token_weight_store.h"
#include "stages/stage.h"

namespace voronoi::stages {
namespace {

constexpr const char* kCalibrate = "calibrate";

class Calibration {
 public:
  explicit Calibration(Work& work)
      : work_(work), mended_(*work.inputs.model), transformer_(mended_, work.context, work.inputs.dtype) {
    find_needed();
    for (std::int64_t block = 0; block <= last_needed_; ++block) work_.clock.expect(kCalibrate, block_seconds(block));
    const bool guided = work_.settings.hessian == "guided";
    // Of a start that was killed before it came to that.
    if (guided && last_needed_ < 0 && work_.world.rank() == 0) drop_token_weights();
    if (last_needed_ < 0 && !(work.sequential() && work.has_pending_from(0))) return;
    if (guided && last_needed_ >= 0) weigh_tokens();
    if (work_.stopped) return;
    if (work_.world.rank() == 0) tell_texts();
    stream_.emplace(transformer_, work.context, work.world, work.inputs.windows, [] { return core::stop_requested(); });
    calib::Collector::Options options;
    options.held_out_share = work.settings.calibration_held_out;
    options.token_weights = token_weights_ ? &*token_weights_ : nullptr;
    options.is_weighed_stream = !work.sequential();
    options.all_experts = work.settings.calibration_experts == "all";
    if (work.settings.target == "asymmetric") {
      original_.emplace(transformer_, work.context, work.world, work.inputs.windows,
                        [] { return core::stop_requested(); });
      options.original = &*original_;
    }
    transformer_.release_tables();  // all windows are embedded
    collector_.emplace(transformer_, work.context, work.world, *stream_, options);
    writer_.emplace(*work.run.start);
  }

  void run(const Window& window) {
    if (!stream_) return;
    try {
      calibrate(window);
    } catch (const core::StopRequested&) {  // on every rank; of the block at work nothing is kept
      work_.stopped = true;
    }
    writer_->finish();
  }

 private:
  /// What each text gives, in log and journals.
  void tell_texts() {
    const std::vector<std::int64_t>& weights = work_.settings.calibration_weights;
    for (std::size_t t = 0; t < work_.inputs.texts.size(); ++t) {
      const model::TextShare& gave = work_.inputs.shares[t];
      run::CalibrationTextRecord record;
      record.number = static_cast<std::int64_t>(t) + 1;
      record.path = work_.inputs.texts[t].path;
      record.sha256 = work_.inputs.texts[t].sha256;
      if (!weights.empty()) record.weight = static_cast<double>(weights[t]) / static_cast<double>(model::kWeightUnit);
      record.windows = gave.windows;
      record.tokens = gave.windows * work_.inputs.windows.context;
      record.text_tokens = gave.text_tokens;
      record.duplicates = gave.duplicates;
      core::log_info("calibration text {}: {} windows, {} tokens, of {} in the text{}", record.path, record.windows,
                     record.tokens, record.text_tokens,
                     gave.duplicates == 0
                         ? ""
                         : fmt::format("; {} windows left out, with the tokens of one before", gave.duplicates));
      for (run::Run* run : work_.all_runs()) {
        const auto known = run->state.calibration_texts.find(record.number);
        if (known == run->state.calibration_texts.end() || known->second != record) run->append(record);
      }
    }
  }

  /// How many tokens the experts of a block got, in log and journals; rank 0.
  void tell_coverage(std::int64_t block) {
    std::vector<std::int64_t> tokens = collector_->expert_tokens();
    if (tokens.empty() || work_.world.rank() != 0) return;
    std::sort(tokens.begin(), tokens.end());
    const std::vector<model::SiteSpec> sites = model::block_sites(work_.config(), block);
    const auto expert = std::find_if(sites.begin(), sites.end(), [](const auto& site) { return site.expert >= 0; });
    run::ExpertCoverage coverage;
    coverage.block = block;
    coverage.experts = std::ssize(tokens);
    coverage.covered =
        std::count_if(tokens.begin(), tokens.end(), [&](std::int64_t n) { return !calib::is_starved(*expert, n); });
    coverage.least = tokens.front();
    coverage.median = tokens[tokens.size() / 2];
    core::log_info(
        "block {}: {} of {} experts have a quarter as many tokens as inputs ({}) or more; least {}, median {}", block,
        coverage.covered, coverage.experts, expert->in_features, coverage.least, coverage.median);
    for (run::Run* run : work_.all_runs()) {
      const auto known = run->state.coverage.find(block);
      if (known == run->state.coverage.end() || known->second != coverage) run->append(coverage);
    }
  }

  /// What each token counts, for guided Hessians: the whole model forward and backward once, before the first window.
  void weigh_tokens() {
    const Clock::time_point start = Clock::now();
    // Products in f32, whatever those of the Hessians are; but in bf16 on a CPU, where nobody has them unless they were
    // asked for: they are what makes a pass quick.
    std::optional<model::Transformer> exact;
    const bool as_hessians = transformer_.dtype() == core::DType::f32 ||
                             (transformer_.dtype() == core::DType::bf16 && work_.context.on_host());
    if (!as_hessians) exact.emplace(mended_, work_.context, core::DType::f32);
    const auto told = [&](std::int64_t done, std::int64_t all) {
      if (work_.world.rank() != 0) return;
      const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
      const double share = static_cast<double>(done) / static_cast<double>(all);
      work_.clock.under_way(kCalibrate, weighing_seconds(), elapsed, elapsed * (1 - share) / share);
      const std::string doing = fmt::format("what tokens count, pass {}/{}", done, all);
      core::show_progress(fmt::format("calibrating: {}{}", doing, left_text(work_.clock.left())));
      work_.tell(kCalibrate, doing);
    };
    work_.clock.expect(kCalibrate, weighing_seconds());
    try {
      token_weights_.emplace(
          exact ? *exact : transformer_, work_.context, work_.world, work_.inputs.windows, shelf(),
          [] { return core::stop_requested(); }, told, work_.settings.hessian_groups);
    } catch (const core::StopRequested&) {  // on every rank
      work_.stopped = true;
    }
    work_.clock.done(kCalibrate, weighing_seconds(), std::chrono::duration<double>(Clock::now() - start).count());
    work_.journal_time(kCalibrate, start);
    tell_damage();
  }

  /// A start that was killed has left the chunks that it was done with.
  calib::TokenWeights::Shelf shelf() {
    calib::TokenWeights::Shelf shelf;
    shelf.take = [this](const calib::ChunkRange& chunk) -> calib::ChunkWeights {
      const std::filesystem::path file = work_.run.paths.token_weights(chunk.id);
      if (!std::filesystem::exists(file)) return {};
      try {
        return run::read_token_weights(work_.run.paths, chunk.id, work_.config(), work_.settings.hessian_groups,
                                       work_.inputs.calibration);
      } catch (const core::Error& error) {
        core::log_warning("{}; moved to {}, it will be made again", error.what(),
                          work_.run.start->quarantine(file).string());
        return {};
      }
    };
    shelf.keep = [this](const calib::ChunkRange& chunk, const calib::ChunkWeights& weights) {
      run::write_token_weights(*work_.run.start, chunk.id, weights, work_.inputs.calibration);
    };
    return shelf;
  }

  /// Rank 0, once no Hessian of this run needs them.
  void drop_token_weights() const {
    const model::Windows& windows = work_.inputs.windows;
    for (std::int64_t chunk = 0; chunk < calib::calibration_chunks(windows.count, windows.context); ++chunk)
      work_.run.start->remove(work_.run.paths.token_weights(chunk));
  }

  double weighing_seconds() const {
    const model::Windows& windows = work_.inputs.windows;
    return calib::weighing_work(work_.config(), windows.count, windows.context) /
           planning::sweep_rate(work_.rates, work_.context.device(), work_.settings.dtype) / work_.world.size();
  }

  void calibrate(const Window& window) {
    const Clock::time_point start = Clock::now();
    if (work_.sequential() && window.first > 0 && work_.has_pending_from(window.first)) leave_block(window.first - 1);
    std::vector<std::int64_t> blocks;
    for (std::int64_t block = window.first; block < window.last; ++block)
      if (work_.sequential() ? is_needed(block) : block <= last_needed_) blocks.push_back(block);
    model::BlockPrefetcher prefetcher(transformer_, work_.context, blocks);
    for (const std::int64_t block : blocks) {
      if (work_.stop_agreed()) return;
      const Clock::time_point block_start = Clock::now();
      if (work_.world.rank() == 0) show(block);
      const model::BlockWeights weights = prefetcher.next();
      if (is_needed(block))
        collect(weights);
      else
        stream_->advance(weights);
      const double seconds = std::chrono::duration<double>(Clock::now() - block_start).count();
      work_.clock.done(kCalibrate, block_seconds(block), seconds);
      work_.tokens_per_second =
          static_cast<double>(work_.inputs.windows.count * work_.inputs.windows.context) / seconds;
      if (work_.world.rank() == 0) work_.tell(kCalibrate, doing(block));
      tell_damage();
    }
    writer_->finish();
    work_.world.barrier();  // every Hessian of the window is on disk
    tell_speed(std::ssize(blocks), std::chrono::duration<double>(Clock::now() - start).count());
    if (token_weights_ && last_needed_ < window.last && work_.world.rank() == 0) drop_token_weights();
    work_.journal_time(kCalibrate, start);
  }

  /// Of a window's blocks; rank 0.
  void tell_speed(std::int64_t n_blocks, double seconds) const {
    if (n_blocks == 0 || work_.world.rank() != 0) return;
    const std::int64_t tokens = work_.inputs.windows.count * work_.inputs.windows.context;
    core::log_info("calibrated {} block{} with {} tokens in {}: {:.0f} tokens a second through a block", n_blocks,
                   n_blocks == 1 ? "" : "s", tokens, core::format_duration(seconds),
                   static_cast<double>(n_blocks * tokens) / seconds);
  }

  /// Which blocks need their Hessians computed.
  void find_needed() {
    needed_.assign(static_cast<std::size_t>(work_.config().n_layers), '0');
    for (const planning::SiteTask& task : missing_hessians(work_)) needed_[static_cast<std::size_t>(task.block)] = '1';
    const std::size_t last = needed_.rfind('1');
    last_needed_ = last == std::string::npos ? -1 : static_cast<std::int64_t>(last);
  }

  bool is_needed(std::int64_t block) const { return needed_[static_cast<std::size_t>(block)] == '1'; }

  void collect(const model::BlockWeights& weights) {
    const bool advance = !work_.sequential() && weights.layer < last_needed_;
    const std::vector<calib::SiteHessian> hessians = collector_->collect(weights, advance);
    original_block_ = weights.layer + 1;
    for (const calib::SiteHessian& site : hessians)
      if (work_.takes_hessian(weights.layer, site.site)) writer_->write(weights.layer, site, work_.inputs.calibration);
    tell_coverage(weights.layer);
    warn_of_starved(weights.layer, hessians);
    warn_of_left_out(weights.layer, hessians);
  }

  /// The residual stream leaves the block as the quantized model computes it: in its first generation, which is what
  /// the layers behind it were calibrated on. The other one leaves it unquantized, where collecting has not taken it
  /// on.
  void leave_block(std::int64_t block) {
    if (original_ && original_block_ <= block) {
      original_->advance(transformer_.load_block(block));
      original_block_ = block + 1;
    }
    const run::RunSource quantized(mended_, work_.run.paths, {work_.run.done, {}});
    stream_->advance(model::Transformer(quantized, work_.context, work_.inputs.dtype).load_block(block));
    tell_damage();
  }

  static void warn_of_starved(std::int64_t block, const std::vector<calib::SiteHessian>& hessians) {
    std::string sites;
    for (const calib::SiteHessian& site : hessians)
      if (site.pooled_tokens > 0)
        sites += fmt::format("{}{} ({} tokens)", sites.empty() ? "" : ", ", site.site, site.n_tokens);
    if (!sites.empty())
      core::log_warning(
          "block {}: too few tokens for a Hessian of their own, the pool of the layer's experts is taken: {}; more "
          "--calibration-sequences, or --calibration-experts all, may help",
          block, sites);
  }

  void warn_of_left_out(std::int64_t block, const std::vector<calib::SiteHessian>& hessians) const {
    std::string sites;
    for (const calib::SiteHessian& site : hessians)
      if (site.n_left_out > 0)
        sites += fmt::format("{}{} ({} of {} tokens)", sites.empty() ? "" : ", ", site.site, site.n_left_out,
                             site.n_left_out + site.n_tokens);
    if (!sites.empty())
      core::log_warning(
          "block {}: inputs that are not finite or above {:g} were left out of the Hessian: {}; the first of the run: "
          "{}",
          block, calib::largest_input(work_.inputs.dtype), sites, collector_->first_fault());
  }

  /// Tensors whose bad values calibration took for 0, once each.
  void tell_damage() {
    if (work_.world.rank() != 0) return;
    for (auto& [tensor, damage] : mended_.damage()) {
      if (!told_.insert(tensor).second) continue;
      core::log_warning("{}; {} such value(s) count as 0 in calibration", damage.error, damage.n_values);
      for (run::Run* member : work_.members) member->append(run::DamagedTensor{tensor, damage.n_values, damage.error});
    }
  }

  /// Predicted for the block's pass over the calibration windows, on all ranks.
  double block_seconds(std::int64_t block) const {
    if (work_.sequential() && !is_needed(block)) return 0;
    const model::Windows& windows = work_.inputs.windows;
    const calib::BlockWork work =
        calib::block_work(work_.config(), block, windows.count, windows.context, work_.hessian_kind());
    const double forward = planning::forward_rate(work_.rates, work_.context.device(), work_.settings.dtype);
    return (work.gemm / forward + (is_needed(block) ? work.gram / work_.rates.gram : 0)) / work_.world.size();
  }

  std::string doing(std::int64_t block) const { return fmt::format("block {}/{}", block + 1, work_.config().n_layers); }

  /// As the block begins.
  void show(std::int64_t block) {
    const double predicted = block_seconds(block);
    work_.clock.under_way(kCalibrate, predicted, 0, work_.clock.corrected(kCalibrate, predicted));
    core::show_progress(
        fmt::format("calibrating: {}{}, {} of {} layers done{}", doing(block),
                    work_.tokens_per_second > 0 ? fmt::format(", {:.0f} tokens/s", work_.tokens_per_second) : "",
                    work_.layers_done(), work_.layers_wanted(), left_text(work_.clock.left())));
    work_.tell(kCalibrate, doing(block));
  }

  Work& work_;
  model::MendedSource mended_;
  model::Transformer transformer_;
  std::string needed_;  // '1' for each block whose Hessians are to be computed
  std::int64_t last_needed_ = -1;
  std::optional<calib::TokenWeights> token_weights_;
  std::optional<calib::ResidualStream> stream_;
  std::optional<calib::ResidualStream> original_;  // for asymmetric targets
  std::int64_t original_block_ = 0;                // the block that it stands before
  std::optional<calib::Collector> collector_;
  std::set<std::string> told_;  // on rank 0: damaged tensors that the log has explained
  std::optional<run::HessianWriter> writer_;
};

}  // namespace

StageRun begin_calibrate(Work& work) {
  return [calibration = std::make_shared<Calibration>(work)](const Window& window) { calibration->run(window); };
}

}  // namespace voronoi::stages
