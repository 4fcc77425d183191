// A phase without MPI and without waiting: the coordinator driven by a simulated clock.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <queue>
#include <string>
#include <vector>

#include "sched/coordinator.h"

namespace voronoi::sched::test {

/// One run of a task on its members.
struct SimulatedRun {
  std::int64_t id = 0;
  std::vector<int> members;
  double start = 0, end = 0;
};

/// How a run ends: by default well, after the predicted time.
struct RunResult {
  double seconds = 0;
  TaskStatus status = TaskStatus::ok;
  std::vector<int> at_fault;  ///< failed: all members when empty
};

class Simulation {
 public:
  Simulation(std::vector<Task> task_list, int n_ranks, SchedulerOptions options = {})
      : n_ranks_(n_ranks), tasks_(std::move(task_list)), coordinator_(tasks_, n_ranks, cost_model, events, options) {
    events.task_done = [this](const Task& task, const Outcome&, int) { done.push_back(task.id); };
    events.task_failed = [this](const Task& task, const Outcome& outcome, int rank, int attempt) {
      failed.push_back(std::to_string(task.id) + " on " + std::to_string(rank) + " attempt " + std::to_string(attempt) +
                       ": " + outcome.report);
    };
    events.task_quarantined = [this](const Task& task, const std::string&) { quarantined.push_back(task.id); };
    execute = [](const Task& task, const std::vector<int>&, int) {
      return RunResult{task.predicted_seconds / task.width, {}, {}};
    };
  }

  CostModel cost_model;
  CoordinatorEvents events;
  std::function<RunResult(const Task&, const std::vector<int>& members, int attempt)> execute;
  std::function<double(int rank)> ready_at = [](int) { return 0.0; };
  double stop_at = -1;

  std::vector<SimulatedRun> runs;  ///< in the order of their starts
  std::vector<std::int64_t> done, quarantined;
  std::vector<std::string> failed;
  std::vector<Command> finishes;
  double end = 0;

  Coordinator& coordinator() { return coordinator_; }

  void run() {
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
      obey(coordinator_.on_message(event.rank, event.message, event.time), event.time);
      if (!coordinator_.finished()) end = event.time;
      if (event.message.kind == WorkerMessage::Kind::done) end = event.time;
    }
  }

 private:
  struct Event {
    double time = 0;
    std::int64_t order = 0;
    int rank = 0;
    WorkerMessage message;
    bool operator<(const Event& other) const { return time != other.time ? time > other.time : order > other.order; }
  };

  void post(double time, int rank, WorkerMessage message) { queue_.push({time, ++order_, rank, std::move(message)}); }

  void obey(const std::vector<AddressedCommand>& commands, double now) {
    for (const auto& [rank, command] : commands) {
      if (command.kind == Command::Kind::finish) {
        finishes.push_back(command);
        WorkerMessage left;
        left.kind = WorkerMessage::Kind::left;
        post(now, rank, left);
        continue;
      }
      if (rank != command.members.front()) continue;  // the lowest member acts for all
      const Task& task = tasks_[static_cast<std::size_t>(command.task)];
      const RunResult result = execute(task, command.members, ++attempts_[task.id]);
      runs.push_back({task.id, command.members, now, now + result.seconds});
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
        post(now + result.seconds, member, message);
      }
    }
  }

  int n_ranks_;
  std::vector<Task> tasks_;
  Coordinator coordinator_;
  std::priority_queue<Event> queue_;
  std::map<std::int64_t, int> attempts_;
  std::int64_t order_ = 0;
};

}  // namespace voronoi::sched::test
