// A phase without MPI and without waiting: the real coordinator driven by a simulated clock and simulated ranks. For
// plans, for the choice of widths, and for tests.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <queue>
#include <set>
#include <string>
#include <vector>

#include "sched/coordinator.h"

namespace voronoi::sched {

/// One run of a task on its members.
struct SimulatedRun {
  std::int64_t id = 0;
  std::vector<int> members;
  double start = 0, end = 0;
  TaskStatus status = TaskStatus::ok;
};

/// How a run ends: by default well, after the predicted time.
struct RunResult {
  double seconds = 0;
  TaskStatus status = TaskStatus::ok;
  std::vector<int> at_fault;  ///< failed: all members when empty
};

/// Ranks that differ and fail, by counter-based random numbers: the same seed, the same phase.
struct ClusterBehaviour {
  std::uint64_t seed = 0;
  double speed_spread = 0;           ///< a rank's speed is 1 +- this at most; a team goes with its slowest
  double noise = 0;                  ///< a run takes 1 +- this at most of what it should
  double straggler_probability = 0;  ///< of a run
  double straggler_factor = 5;       ///< and then takes so much longer
  double failure_probability = 0;    ///< of a run; it fails half way, at one of its members
};

class Simulation {
 public:
  using Execute = std::function<RunResult(const Task&, const std::vector<int>& members, int number)>;

  /// Widths are in [1, n_ranks]. Callbacks may be replaced before run().
  Simulation(std::vector<Task> tasks, int n_ranks, SchedulerOptions options = {});
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  CostModel cost_model;
  CoordinatorEvents events;
  Execute execute;
  std::function<double(int rank)> ready_at = [](int) { return 0.0; };
  double stop_at = -1;

  std::vector<SimulatedRun> runs;  ///< in the order of their starts
  std::vector<std::int64_t> done, quarantined;
  std::vector<std::string> failed;
  std::vector<Command> finishes;
  double end = 0;  ///< of the last run

  Coordinator& coordinator() { return coordinator_; }
  void behave(const ClusterBehaviour& cluster);
  void run();

 private:
  struct Event {
    double time = 0;
    std::int64_t order = 0;
    int rank = 0;
    WorkerMessage message;
    bool operator<(const Event& other) const { return time != other.time ? time > other.time : order > other.order; }
  };
  void post(double time, int rank, WorkerMessage message);
  void start(const Command& command, double now);
  void cancel(int rank, const Command& command, double now);
  void obey(const std::vector<AddressedCommand>& commands, double now);

  int n_ranks_;
  std::vector<Task> tasks_;
  Coordinator coordinator_;
  std::priority_queue<Event> queue_;
  std::map<std::int64_t, int> tries_;
  std::map<int, double> busy_until_;           ///< by rank
  std::map<std::int64_t, std::int64_t> ends_;  ///< event that ends a hand-out of one rank, by the hand-out's number
  std::set<std::int64_t> void_;                ///< events that will not come
  std::int64_t order_ = 0;
};

/// What a simulated phase came to.
struct SimulationSummary {
  double seconds = 0;      ///< from first to last
  double bound = 0;        ///< see phase_bound
  double even_share = 0;   ///< seconds if every task could be divided at no cost
  double busy = 0;         ///< share of the ranks' time that ran tasks
  double lost = 0;         ///< rank-seconds of runs that failed
  double longest_run = 0;  ///< seconds of the longest run: what a kill may cost
  std::int64_t n_runs = 0, n_wide = 0;
  std::string last_task;  ///< ended last: the end of the critical path
  double efficiency() const { return seconds > 0 ? bound / seconds : 1; }
};
SimulationSummary summarize(const Simulation& simulation, const std::vector<Task>& tasks, int n_ranks);

}  // namespace voronoi::sched
