#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <thread>
#include <unordered_set>

#include "core/error.h"
#include "core/hash.h"
#include "sched/coordinator.h"
#include "sched/event_thread.h"
#include "sched/scheduler.h"
#include "sched/worker.h"

namespace voronoi::sched {
namespace {

// Looking out for messages is what most of the coordinator's CPU time goes to: 10 to 30 us a time.
constexpr std::chrono::microseconds kNothingUrgent{5000};

void check_same_list(const comm::Communicator& world, const std::vector<Task>& tasks) {
  std::string text;
  std::unordered_set<std::int64_t> ids;
  for (const Task& task : tasks) {
    ids.insert(task.id);
    text += std::to_string(task.id) + '\n' + task.name + '\n' + task.kind + '\n' + std::to_string(task.width) + '\n';
  }
  const std::string digest = core::sha256(text);
  const bool differs = world.broadcast(digest, kCoordinatorRank) != digest;
  const std::int64_t differing_rank = world.all_max(differs ? world.rank() : -1);
  if (differing_rank >= 0)
    throw core::InternalError("rank " + std::to_string(differing_rank) + " has another task list than rank 0");
  if (ids.size() != tasks.size()) throw core::InternalError("two tasks of a phase have the same id");
}

/// The coordinator's thread: turns messages and time into events, commands into messages.
class CoordinatorThread {
 public:
  CoordinatorThread(const Channels& channels, Coordinator& coordinator, const std::function<bool()>& stop)
      : channels_(channels), coordinator_(coordinator), stop_(stop), thread_([this] { run(); }) {}
  ~CoordinatorThread() {
    worker_gone_ = true;
    if (thread_.joinable()) thread_.join();
  }
  CoordinatorThread(const CoordinatorThread&) = delete;
  CoordinatorThread& operator=(const CoordinatorThread&) = delete;

  const std::atomic<bool>& gone() const { return gone_; }
  /// Waits for its regular end; its CPU time.
  double join() {
    thread_.join();
    if (error_ != nullptr) std::rethrow_exception(error_);
    return cpu_seconds_;
  }
  /// Its own error, if the worker on this rank ended because of it.
  void rethrow_error() const {
    if (gone_ && error_ != nullptr) std::rethrow_exception(error_);
  }

 private:
  double now() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  bool new_stop() const { return !coordinator_.stop_requested() && stop_ && stop_(); }

  void run() {
    try {
      while (!coordinator_.all_left() && !worker_gone_) {
        if (new_stop()) send(coordinator_.on_stop(now()));
        send(coordinator_.on_tick(now()));
        comm::MessageInfo info;
        const auto bytes = channels_.requests.receive_any(
            info, [this] { return worker_gone_ || now() >= coordinator_.next_tick() || new_stop(); },
            coordinator_.all_have_more() ? kNothingUrgent : std::chrono::microseconds());
        if (bytes) send(coordinator_.on_message(info.source, decode_worker_message(*bytes), now()));
      }
    } catch (...) {
      error_ = std::current_exception();
      gone_ = true;
    }
    cpu_seconds_ = thread_cpu_seconds();
  }

  void send(const std::vector<AddressedCommand>& commands) const {
    for (const auto& [rank, command] : commands) channels_.replies.send(encode(command), rank, kMessageTag);
  }

  const Channels& channels_;
  Coordinator& coordinator_;
  const std::function<bool()>& stop_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::atomic<bool> worker_gone_{false}, gone_{false};
  std::exception_ptr error_;
  double cpu_seconds_ = 0;
  std::thread thread_;  // last: starts when all else is made
};

void require_success(const Command& finish) {
  if (finish.error_code != 0) throw PhaseError(static_cast<core::ExitCode>(finish.error_code), finish.error);
}

/// Rank 0: coordinator, events and a worker, each on a thread.
PhaseResult run_coordinator_rank(const Channels& channels, const std::vector<Task>& tasks, const TaskCallback& callback,
                                 const CoordinatorEvents& events, CostModel& cost_model,
                                 const SchedulerOptions& options, int n_ranks, const std::function<bool()>& stop) {
  EventThread event_thread(events);
  const CoordinatorEvents posting = event_thread.posting();
  Coordinator coordinator(tasks, n_ranks, cost_model, posting, options);
  CoordinatorThread thread(channels, coordinator, stop);
  Command finish;
  try {
    finish = run_worker(channels, tasks, callback, stop, thread.gone());
  } catch (...) {
    thread.rethrow_error();
    throw;
  }
  const double cpu_seconds = thread.join();
  require_success(finish);
  PhaseResult result = coordinator.result();
  result.cost.coordinator_seconds = cpu_seconds + event_thread.join();
  return result;
}

}  // namespace

PhaseResult run_phase(const comm::Communicator& world, const std::vector<Task>& task_list, const TaskCallback& callback,
                      const CoordinatorEvents& events, CostModel& cost_model, const SchedulerOptions& options,
                      const std::function<bool()>& stop) {
  VORONOI_REQUIRE(options.max_tries >= 1, "max_tries must be at least 1");
  check_same_list(world, task_list);
  std::vector<Task> tasks = task_list;
  for (Task& task : tasks) task.width = std::clamp(task.width, 1, world.size());

  const Channels channels(world);
  if (world.rank() == kCoordinatorRank)
    return run_coordinator_rank(channels, tasks, callback, events, cost_model, options, world.size(), stop);
  const Command finish = run_worker(channels, tasks, callback, stop, std::atomic<bool>(false));
  require_success(finish);
  return {finish.stopped, finish.quarantined, {}};
}

}  // namespace voronoi::sched
