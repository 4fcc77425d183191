// Who runs what, when: the coordinator's state machine. It knows neither MPI nor a clock: events come in with their
// time, commands go out.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <set>
#include <string>
#include <unordered_set>
#include <vector>

#include "sched/messages.h"
#include "sched/scheduler.h"

namespace voronoi::sched {

struct AddressedCommand {
  int rank = 0;
  Command command;
};

/// Times are seconds since the phase began and never fall. An exception of a sink callback is kept in error(): no more
/// tasks go out, those in flight are waited for, no callback is called again.
class Coordinator {
 public:
  /// All references must outlive it. A width is in [1, n_ranks].
  Coordinator(const std::vector<Task>& tasks, int n_ranks, CostModel& cost_model, const CoordinatorEvents& events,
              const SchedulerOptions& options);

  std::vector<AddressedCommand> on_message(int rank, const WorkerMessage& message, double now);
  std::vector<AddressedCommand> on_stop(double now);
  /// Due at next_tick().
  std::vector<AddressedCommand> on_tick(double now);
  double next_tick() const { return next_progress_; }

  bool stop_requested() const { return stop_requested_; }
  bool finished() const { return finished_; }  ///< the finish commands are out
  bool all_left() const { return n_left_ == n_ranks_; }
  bool all_have_more() const;  ///< every rank knows what to do when it ends its task: messages are not urgent
  PhaseResult result() const;  ///< without the coordinator's own seconds
  std::exception_ptr error() const { return error_; }
  Progress progress(double now) const;

 private:
  struct TaskState {
    int tries = 0;
    std::set<int> failed_on;
  };
  struct Given {
    std::int64_t index = 0;
    double seconds = 0;  ///< as predicted when it was handed out
  };
  struct WorkerSlot {
    bool ready = false;         ///< has reported for this phase
    std::deque<Given> tasks;    ///< the first one runs
    double queued_seconds = 0;  ///< predicted, of those behind it
    double since = 0, busy_before = 0;
    std::vector<std::int64_t>
        failed_in_row;  ///< indices of tasks that failed by this rank alone since its last success
    bool left_out = false;
  };
  struct Running {
    std::vector<int> members;
    std::size_t reports = 0;
    double started = 0, seconds = 0;  ///< started: when it was handed out, or the task before it on its rank ended
    bool ok = true, stopped = false;
    std::string report, error;  ///< report of the lowest rank, error of the lowest at fault
    int error_rank = -1, error_code = 0;
    std::int64_t sequence = 0;
    bool discarded = false;  ///< another rank was first
    std::vector<int> at_fault;
  };
  /// Tasks of one kind and width share their correction, so their order never changes: longest first.
  struct Waiting {
    double predicted = 0;  ///< wall time, uncorrected
    std::int64_t id = 0, index = 0;
    bool operator<(const Waiting& other) const {
      return predicted != other.predicted ? predicted > other.predicted : id < other.id;
    }
  };
  using Queue = std::set<Waiting>;
  struct QueueKey {
    int width = 1;
    std::string kind;
    bool operator<(const QueueKey& other) const {
      return width != other.width ? width > other.width : kind < other.kind;
    }
  };
  struct Candidate {
    std::int64_t index = -1, id = 0;
    int width = 0;
    double seconds = 0;
  };

  const Task& task(std::int64_t index) const { return tasks_[static_cast<std::size_t>(index)]; }
  double predicted_wall(std::int64_t index) const { return cost_model_.predict_wall(task(index)); }
  Waiting place_in_queue(std::int64_t index) const;
  void enqueue(std::int64_t index);
  bool draining() const { return stop_requested_ || error_ != nullptr; }
  void report(int rank, const WorkerMessage& message, double now, std::vector<AddressedCommand>& commands);
  void conclude(std::int64_t index, const Running& running, bool runs_elsewhere);
  void conclude_failure(std::int64_t index, const Running& running, bool runs_elsewhere);
  void judge(int rank, std::int64_t index, const std::string& error);
  void double_overdue(double now, std::vector<AddressedCommand>& commands);
  template <class Call>
  void guarded(const Call& call);

  Candidate best_candidate(const std::unordered_set<std::int64_t>& passed_over, int widest, double longest) const;
  std::vector<int> choose_members(std::int64_t index) const;
  double seconds_until_free(int n_more, double now) const;
  void give(const Candidate& candidate, const std::vector<int>& members, double now,
            std::vector<AddressedCommand>& commands);
  void hand_out(std::map<std::int64_t, Running>& runs, std::int64_t index, double seconds,
                const std::vector<int>& members, double now, std::vector<AddressedCommand>& commands);
  void look_ahead(int rank, double now, std::vector<AddressedCommand>& commands);
  void dispatch(double now, std::vector<AddressedCommand>& commands);
  void finish_when_done(double now, std::vector<AddressedCommand>& commands);

  const std::vector<Task>& tasks_;
  int n_ranks_;
  CostModel& cost_model_;
  const CoordinatorEvents& events_;
  SchedulerOptions options_;

  std::vector<TaskState> states_;
  std::vector<WorkerSlot> workers_;
  std::map<QueueKey, Queue> queues_;
  std::set<int> free_;
  std::map<std::int64_t, Running> running_;  ///< by task index
  std::map<std::int64_t, Running> doubles_;  ///< of tasks that were given to another rank too
  std::vector<std::int64_t> quarantined_;    ///< task ids
  std::int64_t n_done_ = 0, n_waiting_ = 0, sequence_ = 0;
  PhaseCost cost_;
  int n_ready_ = 0, n_left_ = 0, n_serving_ = 0, widest_ = 1;
  bool has_wide_ = false, stop_requested_ = false, finished_ = false;
  double next_progress_ = 0;
  std::exception_ptr error_;
};

}  // namespace voronoi::sched
