// The stage that quantizes: a task a site over all ranks, window by window.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <numeric>
#include <set>

#include "comm/agreement.h"
#include "core/error.h"
#include "core/log.h"
#include "core/stop.h"
#include "core/whereabouts.h"
#include "planning/folding.h"
#include "sched/scheduler.h"
#include "stages/site_task.h"
#include "stages/stage.h"

namespace voronoi::stages {
namespace {

constexpr const char* kQuantize = "quantize";

class Quantization {
 public:
  explicit Quantization(Work& work) : work_(work) {
    require_hessians(work);
    for (const auto& [block, seconds] : work.predicted_quantize) work.clock.expect(kQuantize, seconds);
    comm::on_root(work.world, [&] { journal_unquantized(); });
  }

  void run(const Window& window) {
    const Clock::time_point start = Clock::now();
    tasks_.clear();
    for (std::int64_t block = window.first; block < window.last; ++block)
      for (planning::SharedTask& task : work_.pending_tasks(block)) tasks_.push_back(std::move(task));
    if (tasks_.empty()) {
      // An earlier start may have ended while it removed them.
      drop_hessians(window);
      return;
    }
    window_seconds_ = 0;
    for (std::int64_t block = window.first; block < window.last; ++block)
      if (const auto found = work_.predicted_quantize.find(block); found != work_.predicted_quantize.end())
        window_seconds_ += found->second;
    work_.tokens_per_second = 0;
    seconds_of_members_.assign(work_.members.size(), 0);
    const sched::PhaseResult phase = run_tasks();
    work_.clock.done(kQuantize, window_seconds_, std::chrono::duration<double>(Clock::now() - start).count());
    const std::vector<std::set<std::string>> given_up = agree_on_failures();
    if (work_.world.rank() == 0)
      work_.run.add(run::SchedulingCost{phase.cost.n_tasks, phase.cost.task_seconds, phase.cost.waiting_seconds,
                                        phase.cost.coordinator_seconds});
    if (phase.stopped) {
      work_.stopped = true;
    } else {
      for (std::size_t i = 0; i < tasks_.size(); ++i)
        if (!std::binary_search(phase.quarantined.begin(), phase.quarantined.end(), static_cast<std::int64_t>(i)))
          for (const planning::SharedTask::Part& part : tasks_[i].parts)
            for (const model::LinearSpec& linear : part.task.site.linears)
              if (!given_up[part.run].contains(linear.name)) work_.members[part.run]->done[linear.name] = 0;
      drop_hessians(window);
    }
    work_.journal_time(kQuantize, start);
    if (work_.is_shared()) journal_shares(std::chrono::duration<double>(Clock::now() - start).count());
  }

 private:
  /// What the rules leave as it is, once.
  void journal_unquantized() const {
    for (const model::LinearSpec& linear : model::block_linears(work_.config()))
      for (run::Run* member : work_.members)
        if (member->parameters.of(linear.name) == nullptr && !member->state.unquantized.contains(linear.name))
          member->add(run::LeftUnquantized{linear.name, linear.out_features * linear.in_features});
    for (run::Run* member : work_.members) member->journal->commit();
  }

  sched::PhaseResult run_tasks() {
    const std::vector<sched::Task> tasks = planning::window_tasks(
        tasks_, work_.parameters(), work_.hessian_kind(), work_.rates, work_.world.size(), work_.settings.team_size);
    const auto callback = [&](const sched::Task& task, core::Team& team) {
      return run_site_task(shared(task), work_.context, team, work_.inputs, work_.members, work_.hessians);
    };
    sched::SchedulerOptions scheduler;
    scheduler.max_tries = work_.settings.max_tries;
    // Every rank has a PhaseError: rank 0 tells it, all end in order.
    try {
      return sched::run_phase(work_.world, tasks, callback, coordinator_events(), cost_model_, scheduler,
                              [] { return core::stop_requested(); });
    } catch (const sched::PhaseError& error) {
      if (work_.world.rank() == 0) throw comm::AgreedError{std::current_exception()};
      throw comm::FailedElsewhere{static_cast<int>(error.exit_code())};
    }
  }

  const planning::SharedTask& shared(const sched::Task& task) const {
    return tasks_[static_cast<std::size_t>(task.id)];
  }

  /// Of each member, linears of these tasks that were given up within a task: rank 0 knows.
  std::vector<std::set<std::string>> agree_on_failures() const {
    std::vector<std::set<std::string>> names(work_.members.size());
    for (const planning::SharedTask& task : tasks_)
      for (const planning::SharedTask::Part& part : task.parts)
        for (const model::LinearSpec& linear : part.task.site.linears)
          if (work_.members[part.run]->state.failed_layers.contains(linear.name)) names[part.run].insert(linear.name);
    return core::parse_json(work_.world.broadcast(core::Json(names).dump(), 0), "names of layers")
        .get<std::vector<std::set<std::string>>>();
  }

  /// Before what is told of a task: which run it is of, where there are several.
  std::string whose(const run::Run& run) const {
    return work_.is_shared() ? run.paths.root.filename().string() + ": " : std::string();
  }

  void give_up(run::Run& run, const sched::Task& task, const std::string& error,
               const std::vector<std::string>& linears) {
    const bool known = !told_.insert(error).second;
    core::log_error("{}{}: given up: {}: {}", whose(run), task.name, fmt::join(linears, ", "),
                    known ? "for the same reason" : error);
    for (const std::string& linear : linears) run.add(run::LayerFailed{linear, task.name, error});
  }

  /// What is journalled of a task as a whole, in each run that has a part in it.
  void add_to_runs(const sched::Task& task, const run::Record& record) {
    for (const planning::SharedTask::Part& part : shared(task).parts) work_.members[part.run]->add(record);
    if (work_.is_shared()) work_.run.add(record);
  }

  void take_part(const sched::Task& task, SiteReport::Part& part, int rank) {
    run::Run& run = *work_.members[part.run];
    for (const auto& [error, linears] : part.failures) give_up(run, task, error, linears);
    for (run::LayerRecord& layer : part.layers) {
      layer.rank = rank;
      layer.start = run.state.start;
      seconds_of_members_[part.run] += layer.seconds;
      core::log_debug("{}{}: {:.3f} bits a weight, relative error {:.5f}, {} on rank {}", whose(run), layer.name,
                      static_cast<double>(layer.stored_bits) / static_cast<double>(layer.weights), layer.relative_error,
                      core::format_duration(layer.seconds), rank);
      run.add(layer);
    }
  }

  /// The wall time of a window as the members shared it: by the time that their layers took.
  void journal_shares(double seconds) {
    comm::on_root(work_.world, [&] {
      const double sum = std::accumulate(seconds_of_members_.begin(), seconds_of_members_.end(), 0.0);
      for (std::size_t i = 0; i < work_.members.size(); ++i)
        if (seconds_of_members_[i] > 0)
          work_.members[i]->append(run::StageTime{kQuantize, seconds * seconds_of_members_[i] / sum});
    });
  }

  sched::CoordinatorEvents coordinator_events() {
    sched::CoordinatorEvents events;
    events.task_done = [&](const sched::Task& task, const sched::Outcome& outcome, int rank) {
      SiteReport report = read_report(outcome.report);
      for (SiteReport::Part& part : report.parts) take_part(task, part, rank);
      add_to_runs(task, run::TaskDone{task.name, rank, task.width, outcome.seconds, core::unix_time()});
      ++work_.tasks_done;
    };
    events.task_failed = [&](const sched::Task& task, const sched::Outcome& outcome, int rank, int number) {
      core::log_warning("{}: failed on rank {} (try {}): {}", task.name, rank, number, outcome.report);
      add_to_runs(task, run::TaskFailed{task.name, outcome.report, rank, number});
    };
    events.task_quarantined = [&](const sched::Task& task, const std::string& error) {
      core::log_error("{}: given up: {}", task.name, error);
      add_to_runs(task, run::Quarantined{task.name, error});
    };
    events.rank_left_out = [&](int rank, const std::string& error) {
      core::log_warning("rank {}: left out of this window after failing one task after another; the last error: {}",
                        rank, error);
      work_.run.add(run::RankLeftOut{rank, error});
    };
    events.task_overdue = [&](const sched::Task& task, int rank, double seconds, int other) {
      core::log_warning("{}: has taken rank {} {}, far more than predicted; rank {} runs it too", task.name, rank,
                        core::format_duration(seconds), other);
      work_.run.add(run::TaskOverdue{task.name, rank, other, seconds});
    };
    events.commit = [&] {
      for (run::Run* run : work_.all_runs()) run->journal->commit();
    };
    events.progress = [&](const sched::Progress& progress) { show_tasks(progress); };
    return events;
  }

  void show_tasks(const sched::Progress& progress) {
    work_.clock.under_way(kQuantize, window_seconds_, progress.elapsed_seconds, progress.eta_seconds);
    const std::string doing = fmt::format("tasks {}/{} of this window", progress.done, progress.total);
    const std::string what =
        work_.is_shared() ? fmt::format("{} runs", work_.members.size()) : work_.run.parameters.method();
    core::show_progress(fmt::format(
        "quantizing ({}): {} of {} layers, {}{}{}", what, work_.layers_done(), work_.layers_wanted(), doing,
        progress.failed > 0 ? fmt::format(", {} failed", progress.failed) : "", left_text(work_.clock.left())));
    core::Json workers = core::Json::array();
    for (std::size_t rank = 0; rank < progress.workers.size(); ++rank) {
      const sched::WorkerState& worker = progress.workers[rank];
      workers.push_back({{"rank", rank},
                         {"task", worker.task},
                         {"since_seconds", worker.since_seconds},
                         {"busy_seconds", worker.busy_seconds}});
    }
    work_.tell(kQuantize, doing, std::move(workers));
  }

  /// Those of a window whose layers are done. What was given up keeps its own, so that the next start tries it again
  /// without a new calibration.
  void drop_hessians(const Window& window) const {
    if (work_.settings.keep_hessians || work_.has_foreign_hessians()) return;
    comm::on_root(work_.world, [&] {
      for (std::int64_t block = window.first; block < window.last; ++block) {
        std::set<std::string> kept;
        for (const planning::SharedTask& task : work_.pending_tasks(block)) kept.insert(task.site().site.name);
        for (const planning::SiteTask& task : work_.all_tasks(block))
          if (!kept.contains(task.site.name)) work_.run.start->remove(work_.run.paths.hessian(block, task.site.name));
      }
    });
  }

  Work& work_;
  sched::CostModel cost_model_;
  std::vector<planning::SharedTask> tasks_;  // of the window
  double window_seconds_ = 0;                // predicted for the window, on all ranks
  std::vector<double> seconds_of_members_;   // in their layers of the window; rank 0
  std::set<std::string> told_;               // on rank 0: faults that the log has explained
};

}  // namespace

StageRun begin_quantize(Work& work) {
  if (work.world.rank() == 0)
    for (const run::Run* run : work.members)
      if (const std::string sites = planning::without_folding(run->parameters.of_run(), work.config()); !sites.empty())
        core::log_info("{}: {}", run->parameters.method(), sites);
  return [quantization = std::make_shared<Quantization>(work)](const Window& window) { quantization->run(window); };
}

}  // namespace voronoi::stages
