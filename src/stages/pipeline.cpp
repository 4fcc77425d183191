#include "stages/pipeline.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <functional>
#include <set>

#include "calib/collector.h"
#include "comm/agreement.h"
#include "core/error.h"
#include "core/log.h"
#include "core/stop.h"
#include "core/whereabouts.h"
#include "model/block_prefetcher.h"
#include "model/mended_source.h"
#include "planning/window_schedule.h"
#include "run/layer_store.h"
#include "run/run.h"
#include "run/settings.h"
#include "sched/scheduler.h"
#include "stages/site_task.h"

namespace voronoi::stages {
namespace {

using Clock = std::chrono::steady_clock;

class Pipeline {
 public:
  Pipeline(const comm::Communicator& world, backend::Context& context, const run::Settings& options,
           const Inputs& inputs, run::Run& run)
      : world_(world),
        context_(context),
        options_(options),
        inputs_(inputs),
        run_(run),
        config_(inputs.model->config()),
        calibrate_(run::has_stage(options, "calibrate")),
        quantize_(run::has_stage(options, "quantize")),
        sequential_(options.calibration == "sequential"),
        rates_(planning::table_rates(context.device(), static_cast<int>(world.all_max(context.n_threads())))),
        mended_(*inputs.model),
        transformer_(mended_, context, inputs.dtype),
        hessians_(options.hessians_from.empty() ? run.paths : store::RunPaths{options.hessians_from}),
        done_(run.done) {
    for (std::int64_t block = 0; block < config_.n_layers; ++block) {
      for (const planning::SiteTask& task : all_tasks(block)) n_layers_ += task.site.linears.size();
      for (const planning::SiteTask& task : pending_tasks(block))
        remaining_seconds_ += planning::task_seconds(task, run.parameters, rates_);
    }
  }

  PipelineResult run() {
    const std::int64_t step = sequential_ ? 1 : options_.hessian_window;
    plan_calibration();
    for (std::int64_t first = 0; first < config_.n_layers && !result_.stopped; first += step) {
      const std::int64_t last = std::min(first + step, config_.n_layers);
      calibrate(first, last);
      if (!result_.stopped && quantize_) quantize(first, last);
      if (!result_.stopped && sequential_) leave_block(first);
    }
    return result_;
  }

 private:
  std::vector<planning::SiteTask> all_tasks(std::int64_t block) const {
    std::vector<planning::SiteTask> tasks;
    for (model::SiteSpec& site : model::block_sites(config_, block)) tasks.push_back({block, std::move(site)});
    return tasks;
  }

  /// Sites of the block with linears that are not done, holding only those.
  std::vector<planning::SiteTask> pending_tasks(std::int64_t block) const {
    std::vector<planning::SiteTask> tasks = all_tasks(block);
    for (planning::SiteTask& task : tasks)
      std::erase_if(task.site.linears, [&](const model::LinearSpec& linear) { return done_.contains(linear.name); });
    std::erase_if(tasks, [](const planning::SiteTask& task) { return task.site.linears.empty(); });
    return tasks;
  }

  /// Which blocks need their Hessians computed: decided by rank 0, which looks at the files.
  void plan_calibration() {
    std::string needed(static_cast<std::size_t>(config_.n_layers), '0');
    comm::on_root(world_, [&] {
      for (std::int64_t block = 0; block < config_.n_layers; ++block)
        for (const planning::SiteTask& task : pending_tasks(block))
          if (!hessian_ready(task)) needed[static_cast<std::size_t>(block)] = '1';
    });
    needed_ = world_.broadcast(needed, 0);
    const std::size_t last = needed_.rfind('1');
    last_needed_ = last == std::string::npos ? -1 : static_cast<std::int64_t>(last);
    if (last_needed_ >= 0 || (sequential_ && remaining_seconds_ > 0))
      collector_.emplace(transformer_, context_, world_, inputs_.windows);
  }

  bool hessian_ready(const planning::SiteTask& task) const {
    const std::filesystem::path file = hessians_.hessian(task.block, task.site.name);
    const bool foreign = !options_.hessians_from.empty();
    if (!std::filesystem::exists(file)) {
      if (foreign)
        throw core::StoreError(file.string() +
                               ": is not there; make that run with --keep-hessians, or leave --hessians-from out");
      if (!calibrate_)
        throw core::ConfigError("--stages: without calibrate the Hessians must be there, and " + file.string() +
                                " is not");
      return false;
    }
    try {
      run::read_hessian(hessians_, task.block, task.site.name, task.site.in_features, inputs_.calibration);
      return true;
    } catch (core::Error& error) {
      if (foreign) {
        error.add_context("--hessians-from (another run with --keep-hessians makes them again)");
        throw;
      }
      core::log_warning("{}; moved to {}, it will be made again", error.what(),
                        run_.attempt->quarantine(file).string());
      return false;
    }
  }

  bool stop_agreed() {
    if (world_.all_max(core::stop_requested() ? 1 : 0) != 0) result_.stopped = true;
    return result_.stopped;
  }

  void calibrate(std::int64_t first, std::int64_t last) {
    if (!collector_ || !calibrate_) return;
    const Clock::time_point start = Clock::now();
    std::vector<std::int64_t> blocks;
    for (std::int64_t block = first; block < last; ++block)
      if (sequential_ ? needed_[static_cast<std::size_t>(block)] == '1' : block <= last_needed_)
        blocks.push_back(block);
    model::BlockPrefetcher prefetcher(transformer_, context_, blocks);
    for (const std::int64_t block : blocks) {
      if (stop_agreed()) return;
      const model::BlockWeights weights = prefetcher.next();
      if (needed_[static_cast<std::size_t>(block)] == '1') {
        const bool advance = !sequential_ && block < last_needed_;
        const std::vector<calib::SiteHessian> hessians = collector_->collect(weights, advance);
        for (const calib::SiteHessian& site : hessians)
          run::write_hessian(*run_.attempt, block, site, inputs_.calibration);
        warn_of_starved(block, hessians);
        warn_of_left_out(block, hessians);
      } else {
        collector_->advance(weights);
      }
      if (world_.rank() == 0) show_calibration(block, last);
      tell_damage();
    }
    world_.barrier();  // every Hessian of the window is on disk
    journal_stage("calibrate", start);
  }

  static void warn_of_starved(std::int64_t block, const std::vector<calib::SiteHessian>& hessians) {
    std::string sites;
    for (const calib::SiteHessian& site : hessians)
      if (site.pooled_tokens > 0)
        sites += fmt::format("{}{} ({} tokens)", sites.empty() ? "" : ", ", site.site, site.n_tokens);
    if (!sites.empty())
      core::log_warning(
          "block {}: too few tokens for a Hessian of their own, the pool of the layer's experts is taken: {}; more "
          "--calibration-sequences may help",
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
          block, calib::largest_input(inputs_.dtype), sites, collector_->first_fault());
  }

  /// Tensors whose bad values calibration took for 0, once each.
  void tell_damage() {
    if (world_.rank() != 0) return;
    for (auto& [tensor, damage] : mended_.damage()) {
      if (!told_.insert(tensor).second) continue;
      core::log_warning("{}; {} such value(s) count as 0 in calibration", damage.error, damage.n_values);
      run_.append(
          {{"type", "damaged_tensor"}, {"tensor", tensor}, {"values", damage.n_values}, {"error", damage.error}});
    }
  }

  void show_calibration(std::int64_t block, std::int64_t last) {
    core::show_progress(fmt::format("calibrating: block {}/{} (window to {}), {} of {} layers done{}", block + 1,
                                    config_.n_layers, last, run_.state.layers.size(), n_layers_, eta_text()));
    write_status("calibrate", core::Json::array());
  }

  /// By the share of quantization work done since this start, calibration included in the elapsed time.
  std::string eta_text() const {
    const double done = remaining_seconds_ - left_seconds_;
    if (left_seconds_ < 0 || done <= 0) return "";
    return ", about " + core::format_duration(elapsed() * left_seconds_ / done) + " left";
  }

  double elapsed() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  void quantize(std::int64_t first, std::int64_t last) {
    const Clock::time_point start = Clock::now();
    std::vector<planning::SiteTask> site_tasks;
    for (std::int64_t block = first; block < last; ++block)
      for (planning::SiteTask& task : pending_tasks(block)) site_tasks.push_back(std::move(task));
    if (site_tasks.empty()) {
      // An earlier start may have ended while it removed them.
      drop_hessians(first, last);
      return;
    }
    const std::vector<sched::Task> tasks =
        planning::window_tasks(site_tasks, run_.parameters, rates_, world_.size(), options_.team_size);

    const auto callback = [&](const sched::Task& task, core::Team& team) {
      return run_site_task(site_tasks[static_cast<std::size_t>(task.id)], context_, team, inputs_, run_, hessians_);
    };
    sched::SchedulerOptions scheduler;
    scheduler.max_attempts = options_.max_attempts;
    const sched::PhaseResult phase = agreed([&] {
      return sched::run_phase(world_, tasks, callback, coordinator_events(site_tasks), cost_model_, scheduler,
                              [] { return core::stop_requested(); });
    });
    const std::set<std::string> given_up = agree_on_failures(site_tasks);
    if (world_.rank() == 0)
      run_.add({{"type", "scheduling"},
                {"tasks", phase.cost.n_tasks},
                {"task_seconds", phase.cost.task_seconds},
                {"waiting_seconds", phase.cost.waiting_seconds},
                {"coordinator_cpu_seconds", phase.cost.coordinator_seconds}});
    if (phase.stopped) {
      result_.stopped = true;
    } else {
      for (std::size_t i = 0; i < site_tasks.size(); ++i)
        if (!std::binary_search(phase.quarantined.begin(), phase.quarantined.end(), static_cast<std::int64_t>(i)))
          for (const model::LinearSpec& linear : site_tasks[i].site.linears)
            if (!given_up.contains(linear.name)) done_.insert(linear.name);
      drop_hessians(first, last);
    }
    journal_stage("quantize", start);
  }

  /// Linears of these tasks that were given up within a task: rank 0 knows.
  std::set<std::string> agree_on_failures(const std::vector<planning::SiteTask>& site_tasks) const {
    core::Json names = core::Json::array();
    for (const planning::SiteTask& task : site_tasks)
      for (const model::LinearSpec& linear : task.site.linears)
        if (run_.state.failed_layers.contains(linear.name)) names.push_back(linear.name);
    return core::parse_json(world_.broadcast(names.dump(), 0), "names of layers").get<std::set<std::string>>();
  }

  void give_up(const sched::Task& task, const std::string& error, const std::vector<std::string>& linears) {
    const bool known = !told_.insert(error).second;
    core::log_error("{}: given up: {}: {}", task.name, fmt::join(linears, ", "), known ? "for the same reason" : error);
    for (const std::string& linear : linears)
      run_.add({{"type", "layer_failed"}, {"name", linear}, {"task", task.name}, {"error", error}});
  }

  /// Every rank has a PhaseError: rank 0 tells it, all end in order.
  sched::PhaseResult agreed(const std::function<sched::PhaseResult()>& run_phase) const {
    try {
      return run_phase();
    } catch (const sched::PhaseError& error) {
      if (world_.rank() == 0) throw comm::AgreedError{std::current_exception()};
      throw comm::FailedElsewhere{static_cast<int>(error.exit_code())};
    }
  }

  sched::CoordinatorEvents coordinator_events(const std::vector<planning::SiteTask>& site_tasks) {
    sched::CoordinatorEvents events;
    events.task_done = [&](const sched::Task& task, const sched::Outcome& outcome, int rank) {
      SiteReport report = read_report(outcome.report);
      for (const auto& [error, linears] : report.failures) give_up(task, error, linears);
      for (run::LayerRecord& layer : report.layers) {
        layer.rank = rank;
        layer.attempt = run_.state.attempt;
        run_.add(run::layer_to_json(layer));
      }
      run_.add({{"type", "task_done"},
                {"task", task.name},
                {"rank", rank},
                {"width", task.width},
                {"seconds", outcome.seconds},
                {"end", core::unix_time()}});
      const double predicted =
          planning::task_seconds(site_tasks[static_cast<std::size_t>(task.id)], run_.parameters, rates_);
      left_seconds_ = (left_seconds_ < 0 ? remaining_seconds_ : left_seconds_) - predicted;
    };
    events.task_failed = [&](const sched::Task& task, const sched::Outcome& outcome, int rank, int attempt) {
      core::log_warning("{}: failed on rank {} (attempt {}): {}", task.name, rank, attempt, outcome.report);
      run_.add(
          {{"type", "task_failed"}, {"task", task.name}, {"rank", rank}, {"try", attempt}, {"error", outcome.report}});
    };
    events.task_quarantined = [&](const sched::Task& task, const std::string& error) {
      core::log_error("{}: given up: {}", task.name, error);
      run_.add({{"type", "quarantined"}, {"task", task.name}, {"error", error}});
    };
    events.rank_left_out = [&](int rank, const std::string& error) {
      core::log_warning("rank {}: left out of this window after failing one task after another; the last error: {}",
                        rank, error);
      run_.add({{"type", "rank_left_out"}, {"rank", rank}, {"error", error}});
    };
    events.task_overdue = [&](const sched::Task& task, int rank, double seconds, int other) {
      core::log_warning("{}: has taken rank {} {}, far more than predicted; rank {} runs it too", task.name, rank,
                        core::format_duration(seconds), other);
      run_.add({{"type", "task_overdue"}, {"task", task.name}, {"rank", rank}, {"seconds", seconds}, {"other", other}});
    };
    events.commit = [&] { run_.journal->commit(); };
    events.progress = [&](const sched::Progress& progress) { show_tasks(progress); };
    return events;
  }

  void show_tasks(const sched::Progress& progress) {
    core::show_progress(
        fmt::format("quantizing ({}): {} of {} layers, tasks {}/{} of this window{}{}", run_.parameters.method,
                    run_.state.layers.size(), n_layers_, progress.done, progress.total,
                    progress.failed > 0 ? fmt::format(", {} failed", progress.failed) : "", eta_text()));
    core::Json workers = core::Json::array();
    for (std::size_t rank = 0; rank < progress.workers.size(); ++rank) {
      const sched::WorkerState& worker = progress.workers[rank];
      workers.push_back({{"rank", rank},
                         {"task", worker.task},
                         {"since_seconds", worker.since_seconds},
                         {"busy_seconds", worker.busy_seconds}});
    }
    write_status("quantize", std::move(workers));
  }

  /// The heartbeat that `status` reads.
  void write_status(const char* stage, core::Json workers) {
    const double done = remaining_seconds_ - left_seconds_;
    const double eta = left_seconds_ >= 0 && done > 0 ? elapsed() * left_seconds_ / done : 0;
    run_.heartbeat->write(
        {run_.state.attempt, stage, core::unix_time(), static_cast<std::int64_t>(n_layers_), eta, std::move(workers)});
  }

  /// Those of a window whose tasks are over.
  void drop_hessians(std::int64_t first, std::int64_t last) const {
    if (options_.keep_hessians || !options_.hessians_from.empty()) return;
    comm::on_root(world_, [&] {
      for (std::int64_t block = first; block < last; ++block)
        for (const planning::SiteTask& task : all_tasks(block))
          run_.attempt->remove(run_.paths.hessian(block, task.site.name));
    });
  }

  /// Sequential calibration: the residual stream leaves the block as the quantized model computes it.
  void leave_block(std::int64_t block) {
    if (!collector_ || block + 1 >= config_.n_layers) return;
    const bool later_work = [&] {
      for (std::int64_t next = block + 1; next < config_.n_layers; ++next)
        if (!pending_tasks(next).empty()) return true;
      return false;
    }();
    if (!later_work) return;
    const Clock::time_point start = Clock::now();
    const run::RunSource quantized(mended_, run_.paths, {done_.begin(), done_.end()});
    collector_->advance(model::Transformer(quantized, context_, inputs_.dtype).load_block(block));
    tell_damage();
    journal_stage("calibrate", start);
  }

  void journal_stage(const char* stage, Clock::time_point start) {
    comm::on_root(world_, [&] {
      run_.append({{"type", "stage"},
                   {"stage", stage},
                   {"seconds", std::chrono::duration<double>(Clock::now() - start).count()}});
    });
  }

  const comm::Communicator& world_;
  backend::Context& context_;
  const run::Settings& options_;
  const Inputs& inputs_;
  run::Run& run_;
  const model::ModelConfig& config_;
  bool calibrate_, quantize_, sequential_;
  planning::Rates rates_;  // first guesses, the same on every rank; the cost model corrects them from the first task on
  model::MendedSource mended_;
  model::Transformer transformer_;
  store::RunPaths hessians_;
  std::optional<calib::Collector> collector_;
  sched::CostModel cost_model_;
  std::set<std::string> done_;  // linears, on every rank
  std::set<std::string> told_;  // on rank 0: faults that the log has explained
  std::string needed_;          // '1' for each block whose Hessians are to be computed
  std::int64_t last_needed_ = -1;
  std::size_t n_layers_ = 0;      // linears of the model
  double remaining_seconds_ = 0;  // predicted for the quantization tasks open at this start
  double left_seconds_ = -1;      // of them still open; unknown before the first task
  Clock::time_point start_ = Clock::now();
  PipelineResult result_;
};

}  // namespace

PipelineResult run_pipeline(const comm::Communicator& world, backend::Context& context, const run::Settings& options,
                            const Inputs& inputs, run::Run& run) {
  return Pipeline(world, context, options, inputs, run).run();
}

}  // namespace voronoi::stages
