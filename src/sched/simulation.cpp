#include "sched/simulation.h"

#include <algorithm>
#include <utility>

#include "core/random.h"

namespace voronoi::sched {

Simulation::Simulation(std::vector<Task> tasks, int n_ranks, SchedulerOptions options)
    : n_ranks_(n_ranks), tasks_(std::move(tasks)), coordinator_(tasks_, n_ranks, cost_model, events, options) {
  events.task_done = [this](const Task& task, const Outcome&, int) { done.push_back(task.id); };
  events.task_failed = [this](const Task& task, const Outcome& outcome, int rank, int number) {
    failed.push_back(std::to_string(task.id) + " on " + std::to_string(rank) + " try " + std::to_string(number) + ": " +
                     outcome.report);
  };
  events.task_quarantined = [this](const Task& task, const std::string&) { quarantined.push_back(task.id); };
  execute = [](const Task& task, const std::vector<int>&, int) {
    return RunResult{wall_seconds(task, task.width), {}, {}};
  };
}

void Simulation::behave(const ClusterBehaviour& cluster) {
  execute = [cluster](const Task& task, const std::vector<int>& members, int number) {
    const core::CounterRandom speeds(cluster.seed, 1), chances(cluster.seed, 2 + static_cast<std::uint64_t>(task.id));
    const auto uniform = [&](int what) {
      return chances.uniform(8 * static_cast<std::uint64_t>(number) + static_cast<std::uint64_t>(what));
    };
    double slowest = 2;
    for (const int member : members)
      slowest =
          std::min(slowest, 1 + cluster.speed_spread * (2 * speeds.uniform(static_cast<std::uint64_t>(member)) - 1));
    RunResult result{wall_seconds(task, task.width) / slowest * (1 + cluster.noise * (2 * uniform(0) - 1)), {}, {}};
    if (uniform(1) < cluster.straggler_probability) result.seconds *= cluster.straggler_factor;
    if (uniform(2) < cluster.failure_probability) {
      result.seconds /= 2;
      result.status = TaskStatus::failed;
      const auto unlucky = static_cast<std::size_t>(uniform(3) * static_cast<double>(members.size()));
      result.at_fault = {members[std::min(unlucky, members.size() - 1)]};
    }
    return result;
  };
}

void Simulation::run() {
  for (int rank = 0; rank < n_ranks_; ++rank) post(ready_at(rank), rank, WorkerMessage{});
  bool stop_told = stop_at < 0;
  while (!queue_.empty()) {
    if (!stop_told && queue_.top().time >= stop_at) {
      stop_told = true;
      obey(coordinator_.on_stop(stop_at), stop_at);
      continue;
    }
    const Event event = queue_.top();
    queue_.pop();
    if (void_.contains(event.order)) continue;
    obey(coordinator_.on_message(event.rank, event.message, event.time), event.time);
    if (!coordinator_.finished() || event.message.kind == WorkerMessage::Kind::done) end = event.time;
  }
}

void Simulation::post(double time, int rank, WorkerMessage message) {
  queue_.push({time, ++order_, rank, std::move(message)});
}

void Simulation::start(const Command& command, double now) {
  const Task& task = tasks_[static_cast<std::size_t>(command.task)];
  const RunResult result = execute(task, command.members, ++tries_[task.id]);
  double begin = now;
  for (const int member : command.members) begin = std::max(begin, busy_until_[member]);
  const double finish = begin + result.seconds;
  runs.push_back({task.id, command.members, begin, finish, result.status});
  for (const int member : command.members) {
    WorkerMessage message;
    message.kind = WorkerMessage::Kind::done;
    message.status = result.status;
    message.at_fault =
        result.status == TaskStatus::failed &&
        (result.at_fault.empty() || std::count(result.at_fault.begin(), result.at_fault.end(), member) > 0);
    message.task = command.task;
    message.seconds = result.seconds;
    message.text = result.status == TaskStatus::ok ? "report of " + std::to_string(member) : "error";
    busy_until_[member] = finish;
    post(finish, member, std::move(message));
    ends_[command.sequence] = order_;
  }
}

/// A run of one rank leaves at once.
void Simulation::cancel(int rank, const Command& command, double now) {
  if (busy_until_[rank] <= now) return;  // its report is on the way
  void_.insert(ends_.at(command.sequence));
  busy_until_[rank] = now;
  WorkerMessage message;
  message.kind = WorkerMessage::Kind::done;
  message.status = TaskStatus::stopped;
  message.task = command.task;
  post(now, rank, std::move(message));
}

void Simulation::obey(const std::vector<AddressedCommand>& commands, double now) {
  for (const auto& [rank, command] : commands) {
    if (command.kind == Command::Kind::finish) {
      finishes.push_back(command);
      WorkerMessage left;
      left.kind = WorkerMessage::Kind::left;
      post(now, rank, left);
    } else if (command.kind == Command::Kind::cancel) {
      cancel(rank, command, now);
    } else if (rank == command.members.front()) {  // the lowest member acts for all
      start(command, now);
    }
  }
}

SimulationSummary summarize(const Simulation& simulation, const std::vector<Task>& tasks, int n_ranks) {
  SimulationSummary summary;
  summary.seconds = simulation.end;
  summary.n_runs = std::ssize(simulation.runs);
  std::map<std::int64_t, const Task*> by_id;
  double work = 0;
  for (const Task& task : tasks) {
    by_id[task.id] = &task;
    work += wall_seconds(task, 1);
    summary.n_wide += task.width > 1 ? 1 : 0;
  }
  summary.bound = phase_bound(tasks, n_ranks);
  summary.even_share = work / n_ranks;
  double busy = 0, last = -1;
  for (const SimulatedRun& run : simulation.runs) {
    const double rank_seconds = (run.end - run.start) * static_cast<double>(run.members.size());
    busy += rank_seconds;
    summary.longest_run = std::max(summary.longest_run, run.end - run.start);
    if (run.status == TaskStatus::failed) summary.lost += rank_seconds;
    if (run.end > last) {
      last = run.end;
      summary.last_task = by_id.at(run.id)->name;
    }
  }
  if (summary.seconds > 0) summary.busy = busy / (summary.seconds * n_ranks);
  return summary;
}

}  // namespace voronoi::sched
