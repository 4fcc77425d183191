// Tasks over ranks: a coordinator (a thread of rank 0) hands out, workers (every rank) run. Knows tasks, not models.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "core/error.h"
#include "core/team.h"

namespace voronoi::sched {

struct Task {
  std::int64_t id = 0;           ///< unique in the list; breaks ties
  std::string name;              ///< for people: "block 7 down"
  std::string kind;              ///< tasks of one kind share a correction factor of the cost model
  double predicted_seconds = 0;  ///< for one rank alone
  int width = 1;              ///< ranks of its team, which share its rows; above 1: a wide task. Clipped to the world
  double serial_seconds = 0;  ///< of the predicted: what every member of a team does by itself
  double team_seconds = 0;    ///< beyond the predicted, when a team exchanges its results
  std::int64_t pieces = 0;    ///< indivisible equal parts of the rest, dealt to the members; 0: any division
};

/// Predicted wall time on `width` ranks, uncorrected; 0 when the prediction is no time.
double wall_seconds(const Task& task, int width);

/// What a worker says of a task. `report` is the callback's own text (JSON), passed on to the sink unread.
struct Outcome {
  std::int64_t task_id = 0;
  bool ok = false;
  double seconds = 0;  ///< wall time of the slowest member
  std::string report;  ///< or the error's text
};

struct WorkerState {
  std::string task;          ///< empty: idle
  double since_seconds = 0;  ///< since the phase began
  double busy_seconds = 0;
};

struct Progress {
  std::int64_t done = 0, failed = 0, total = 0;
  double elapsed_seconds = 0, eta_seconds = 0;
  std::vector<WorkerState> workers;  ///< by rank
};

struct SchedulerOptions {
  int max_tries = 2;  ///< a task's failures before it is quarantined; a retry prefers another rank
  double progress_interval_seconds = 1;
  /// Failures of a rank in a row, of different tasks that failed nowhere else, after which it gets none any more.
  int failures_to_leave_out = 3;
  /// A task of one rank that has run so many times its corrected prediction, and so long, is given to another rank too:
  /// the first result counts.
  double overdue_factor = 4, overdue_seconds = 600;
};

/// Called on rank 0 only, all from one thread that is not the caller's, in the order of what happened. Ranks get their
/// next task without waiting for it. An exception ends the phase on every rank with that error.
struct CoordinatorEvents {
  std::function<void(const Task&, const Outcome&, int rank)> task_done;
  std::function<void(const Task&, const Outcome&, int rank, int number)> task_failed;
  std::function<void(const Task&, const std::string& error)> task_quarantined;
  /// After task_failed of its last task. The tasks it failed are tried as if they had not been on it.
  std::function<void(int rank, const std::string& error)> rank_left_out;
  /// `rank` has had the task for so many seconds; `other` runs it too from now on.
  std::function<void(const Task&, int rank, double seconds, int other)> task_overdue;
  std::function<void(const Progress&)> progress;
  /// Makes durable what the calls before said: after as many of them as came while the last commit ran, and before the
  /// phase ends.
  std::function<void()> commit;
};

/// What handing out took.
struct PhaseCost {
  std::int64_t n_tasks = 0;        ///< runs, a team's counted for each member
  double task_seconds = 0;         ///< rank-seconds in the tasks, wall time
  double waiting_seconds = 0;      ///< rank-seconds between the end of a task and the beginning of the next
  double coordinator_seconds = 0;  ///< CPU time of the coordinator and of the events
};

/// Runs a task on this rank; returns the report (of a wide task the lowest rank's counts). For width > 1 all members
/// call it with the same task and a team of that size. An exception is a failure of the task, StopRequested a stop.
using TaskCallback = std::function<std::string(const Task&, core::Team&)>;

struct PhaseResult {
  bool stopped = false;                   ///< a stop was requested, and tasks remain because of it
  std::vector<std::int64_t> quarantined;  ///< task ids, rising
  PhaseCost cost;                         ///< on rank 0; zeros elsewhere
};

/// An error of the events, after which the tasks in flight were waited for: every rank has it, with the exit code and
/// the text of the original.
class PhaseError : public core::Error {
 public:
  using core::Error::Error;
};

/// Predicted seconds by kind, corrected by what was measured: running ratio a kind; a kind not yet seen takes the ratio
/// of all.
class CostModel {
 public:
  /// For one rank alone.
  double predict(const Task& task) const;
  /// Wall time on task.width ranks.
  double predict_wall(const Task& task) const;
  /// Whether a task of the kind was measured.
  bool has_seen(const std::string& kind) const { return ratios_.contains(kind); }
  /// `seconds` is the wall time on task.width ranks.
  void observe(const Task& task, double seconds);

 private:
  struct Ratio {
    double predicted = 0, measured = 0;
  };
  double factor(const std::string& kind) const;
  std::map<std::string, Ratio> ratios_;
};

/// Runs all tasks over all ranks of `world`; collective. Every rank passes the same list. `stop` is polled on every
/// rank; once it is true anywhere no further task is handed out, the tasks in flight finish or leave by the
/// check_stop() of their team (which counts as no try), and `stopped` is set on every rank. Tasks go out longest-first,
/// short ones several at a time; a task of width w waits until w ranks are free, wide ones first; meanwhile free ranks
/// run what is predicted to end in time. Every rank returns the same result (but for the cost), or every rank throws
/// the same PhaseError; any other exception is this rank's alone. On rank 0 `stop` is called from two threads.
PhaseResult run_phase(const comm::Communicator& world, const std::vector<Task>& tasks, const TaskCallback& callback,
                      const CoordinatorEvents& events, CostModel& cost_model, const SchedulerOptions& options,
                      const std::function<bool()>& stop);

/// Seconds that no division of the tasks over the ranks can beat, whatever their widths: the least time in which every
/// task can end and for which their least rank-seconds, each at a width that ends by then, do not exceed the ranks'
/// (the bound for malleable tasks of Turek, Wolf and Yu 1992). By the predictions; widths given are not looked at.
double phase_bound(const std::vector<Task>& tasks, int n_ranks);

/// Widths under which the coordinator ends the phase soonest, of some hundred tried by simulation
/// with the predictions; widths given are not looked at. A task that is not worth sharing gets 1. Deterministic.
std::vector<int> choose_widths(const std::vector<Task>& tasks, int n_ranks);

}  // namespace voronoi::sched
