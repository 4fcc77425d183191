#include "sched/coordinator.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace voronoi::sched {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();
// While many tasks wait, a rank has more to do when it ends one: short tasks of so many seconds in all, or one of so
// many. Then nobody waits for the way to the coordinator and back, and the coordinator need not look out for messages
// all the time.
constexpr double kShortTasksSeconds = 0.1, kLookAheadSeconds = 1;
// The last tasks, so many a rank, go out one by one to ranks that are free, so that all end nearly together.
constexpr std::int64_t kLastTasks = 4;

}  // namespace

Coordinator::Coordinator(const std::vector<Task>& tasks, int n_ranks, CostModel& cost_model,
                         const CoordinatorEvents& events, const SchedulerOptions& options)
    : tasks_(tasks),
      n_ranks_(n_ranks),
      cost_model_(cost_model),
      events_(events),
      options_(options),
      states_(tasks.size()),
      workers_(static_cast<std::size_t>(n_ranks)),
      n_serving_(n_ranks) {
  VORONOI_REQUIRE(n_ranks >= 1, "a phase needs a rank");
  VORONOI_REQUIRE(options.max_tries >= 1, "max_tries must be at least 1");
  for (std::int64_t i = 0; i < std::ssize(tasks_); ++i) {
    VORONOI_REQUIRE(task(i).width >= 1 && task(i).width <= n_ranks, "width of task \"" + task(i).name + "\"");
    has_wide_ |= task(i).width > 1;
    widest_ = std::max(widest_, task(i).width);
    enqueue(i);
  }
}

Coordinator::Waiting Coordinator::place_in_queue(std::int64_t index) const {
  return {wall_seconds(task(index), task(index).width), task(index).id, index};
}

void Coordinator::enqueue(std::int64_t index) {
  queues_[{task(index).width, task(index).kind}].insert(place_in_queue(index));
  ++n_waiting_;
}

template <class Call>
void Coordinator::guarded(const Call& call) {
  if (error_ != nullptr) return;
  try {
    call();
  } catch (...) {
    error_ = std::current_exception();
  }
}

std::vector<AddressedCommand> Coordinator::on_message(int rank, const WorkerMessage& message, double now) {
  VORONOI_REQUIRE(rank >= 0 && rank < n_ranks_, "message of rank " + std::to_string(rank));
  WorkerSlot& worker = workers_[static_cast<std::size_t>(rank)];
  std::vector<AddressedCommand> commands;
  stop_requested_ |= message.stop_requested || message.kind == WorkerMessage::Kind::stop;
  switch (message.kind) {
    case WorkerMessage::Kind::ready:
      VORONOI_REQUIRE(!worker.ready, "rank " + std::to_string(rank) + " came twice");
      worker.ready = true;
      ++n_ready_;
      free_.insert(rank);
      break;
    case WorkerMessage::Kind::done:
      report(rank, message, now, commands);
      break;
    case WorkerMessage::Kind::stop:
      break;
    case WorkerMessage::Kind::left:
      VORONOI_REQUIRE(finished_, "rank " + std::to_string(rank) + " left early");
      ++n_left_;
      return commands;
  }
  dispatch(now, commands);
  look_ahead(rank, now, commands);
  double_overdue(now, commands);
  finish_when_done(now, commands);
  return commands;
}

std::vector<AddressedCommand> Coordinator::on_stop(double now) {
  stop_requested_ = true;
  std::vector<AddressedCommand> commands;
  finish_when_done(now, commands);
  return commands;
}

std::vector<AddressedCommand> Coordinator::on_tick(double now) {
  std::vector<AddressedCommand> commands;
  if (now < next_progress_) return commands;
  next_progress_ = finished_ ? kNoLimit : now + std::max(options_.progress_interval_seconds, 0.01);
  if (!finished_ && events_.progress) guarded([&] { events_.progress(progress(now)); });
  double_overdue(now, commands);
  finish_when_done(now, commands);
  return commands;
}

void Coordinator::report(int rank, const WorkerMessage& message, double now, std::vector<AddressedCommand>& commands) {
  WorkerSlot& worker = workers_[static_cast<std::size_t>(rank)];
  VORONOI_REQUIRE(!worker.tasks.empty() && worker.tasks.front().index == message.task,
                  "rank " + std::to_string(rank) + " reports on a task it was not given");
  worker.busy_before += now - worker.since;
  worker.since = now;
  worker.tasks.pop_front();
  if (worker.tasks.empty()) {
    if (!worker.left_out) free_.insert(rank);
  } else {
    worker.queued_seconds -= worker.tasks.front().seconds;
    running_.at(worker.tasks.front().index).started = now;
  }
  ++cost_.n_tasks;
  cost_.task_seconds += message.seconds;
  cost_.waiting_seconds += message.waited_seconds;

  const auto find_in = [&](std::map<std::int64_t, Running>& runs) {
    const auto it = runs.find(message.task);
    return it != runs.end() && std::count(it->second.members.begin(), it->second.members.end(), rank) > 0 ? it
                                                                                                          : runs.end();
  };
  const auto first = find_in(running_);
  const bool is_first = first != running_.end();
  std::map<std::int64_t, Running>& runs = is_first ? running_ : doubles_;
  std::map<std::int64_t, Running>& others = is_first ? doubles_ : running_;
  const auto it = is_first ? first : find_in(doubles_);
  VORONOI_REQUIRE(it != runs.end(), "a report on a task that does not run");
  Running& running = it->second;
  ++running.reports;
  running.seconds = std::max(running.seconds, message.seconds);
  running.stopped |= message.status == TaskStatus::stopped;
  running.ok &= message.status == TaskStatus::ok;
  if (message.status == TaskStatus::ok && rank == running.members.front()) running.report = message.text;
  if (message.status == TaskStatus::failed) {
    if (message.at_fault) running.at_fault.push_back(rank);
    if (running.error_rank < 0 || rank < running.error_rank) {
      running.error_rank = rank;
      running.error = message.text;
      running.error_code = message.error_code;
    }
  }
  if (running.reports < running.members.size()) return;
  const Running ended = std::move(running);
  runs.erase(it);
  if (ended.discarded) return;
  const auto other = others.find(message.task);
  if (ended.ok && other != others.end()) {
    other->second.discarded = true;
    for (const int member : other->second.members) {
      Command cancel;
      cancel.kind = Command::Kind::cancel;
      cancel.task = message.task;
      cancel.sequence = other->second.sequence;
      commands.push_back({member, std::move(cancel)});
    }
  }
  conclude(message.task, ended, other != others.end());
}

/// runs_elsewhere: the task is not lost, whatever this run came to.
void Coordinator::conclude(std::int64_t index, const Running& running, bool runs_elsewhere) {
  const int rank = running.members.front();
  if (running.ok) {
    for (const int member : running.members) workers_[static_cast<std::size_t>(member)].failed_in_row.clear();
    guarded([&] {
      if (events_.task_done)
        events_.task_done(task(index), {task(index).id, true, running.seconds, running.report}, rank);
      ++n_done_;
    });
    cost_model_.observe(task(index), running.seconds);
    return;
  }
  if (running.error_rank < 0) {  // nothing failed: the callback left its work because of a stop
    stop_requested_ = true;
    if (!runs_elsewhere) enqueue(index);
    return;
  }
  conclude_failure(index, running, runs_elsewhere);
}

void Coordinator::conclude_failure(std::int64_t index, const Running& running, bool runs_elsewhere) {
  TaskState& state = states_[static_cast<std::size_t>(index)];
  const int rank = running.members.front();
  // What was in the queue of a rank that has been left out since says nothing of the task.
  if (running.at_fault.empty() || !std::all_of(running.at_fault.begin(), running.at_fault.end(), [&](int member) {
        return workers_[static_cast<std::size_t>(member)].left_out;
      }))
    ++state.tries;
  state.failed_on.insert(running.at_fault.begin(), running.at_fault.end());
  const int culprit =
      running.at_fault.empty() ? rank : *std::min_element(running.at_fault.begin(), running.at_fault.end());
  guarded([&] {
    if (events_.task_failed)
      events_.task_failed(task(index), {task(index).id, false, running.seconds, running.error}, culprit, state.tries);
  });
  for (const int member : running.at_fault) judge(member, index, running.error);
  if (runs_elsewhere) return;
  if (state.tries < options_.max_tries) {
    enqueue(index);
    return;
  }
  // No fault of the task: the same command may do it where the node is well.
  if (running.error_code == static_cast<int>(core::ExitCode::node))
    return guarded([&] { throw core::Error(core::ExitCode::node, task(index).name + ": " + running.error); });
  guarded([&] {
    if (events_.task_quarantined) events_.task_quarantined(task(index), running.error);
    quarantined_.push_back(task(index).id);
  });
}

/// A rank that fails one task after another that nobody else has failed is left out, as long as those that remain can
/// do every task.
void Coordinator::judge(int rank, std::int64_t index, const std::string& error) {
  WorkerSlot& worker = workers_[static_cast<std::size_t>(rank)];
  std::vector<std::int64_t>& row = worker.failed_in_row;
  if (std::find(row.begin(), row.end(), index) == row.end()) row.push_back(index);
  const auto by_others = [&](std::int64_t failed) {
    return states_[static_cast<std::size_t>(failed)].failed_on.size() > 1;
  };
  std::erase_if(row, by_others);
  if (worker.left_out || std::ssize(row) < options_.failures_to_leave_out || n_serving_ - 1 < std::max(1, widest_))
    return;
  worker.left_out = true;
  --n_serving_;
  free_.erase(rank);
  for (const std::int64_t failed : row) --states_[static_cast<std::size_t>(failed)].tries;
  guarded([&] {
    if (events_.rank_left_out) events_.rank_left_out(rank, error);
  });
}

/// Free ranks that no waiting task can use take over what runs far too long on others. Only tasks of kinds that have
/// been measured, since a guess may be far off.
void Coordinator::double_overdue(double now, std::vector<AddressedCommand>& commands) {
  if (finished_ || draining() || free_.empty()) return;
  for (auto& entry : running_) {
    const std::int64_t index = entry.first;  // no structured binding: clang 14 lets no lambda capture one
    auto& running = entry.second;
    const double seconds = now - running.started;
    if (running.members.size() > 1 || running.discarded ||
        workers_[static_cast<std::size_t>(running.members.front())].tasks.front().index != index ||
        doubles_.contains(index) || !cost_model_.has_seen(task(index).kind) || seconds <= options_.overdue_seconds ||
        seconds <= options_.overdue_factor * predicted_wall(index))
      continue;
    const std::set<int>& failed_on = states_[static_cast<std::size_t>(index)].failed_on;
    const auto other = std::find_if(free_.begin(), free_.end(), [&](int rank) { return !failed_on.contains(rank); });
    if (other == free_.end()) continue;
    const int slow = running.members.front(), rank = *other;
    guarded([&] {
      if (events_.task_overdue) events_.task_overdue(task(index), slow, seconds, rank);
    });
    hand_out(doubles_, index, predicted_wall(index), {rank}, now, commands);
    if (free_.empty()) return;
  }
}

/// Wide before narrow, then the longest by corrected prediction, then the lowest id; of those at most `widest` wide
/// that take at most `longest` seconds.
Coordinator::Candidate Coordinator::best_candidate(const std::unordered_set<std::int64_t>& passed_over, int widest,
                                                   double longest) const {
  Candidate best;
  for (const auto& [key, queue] : queues_) {
    if (queue.empty() || key.width > widest) continue;
    if (best.index >= 0 && key.width < best.width) break;
    auto it = queue.begin();
    if (longest < kNoLimit && predicted_wall(it->index) > longest) {
      const double factor = predicted_wall(it->index) / it->predicted;
      it = queue.lower_bound({longest / factor, std::numeric_limits<std::int64_t>::min(), 0});
      while (it != queue.end() && predicted_wall(it->index) > longest) ++it;  // rounding of the factor
    }
    while (it != queue.end() && passed_over.contains(it->index)) ++it;
    if (it == queue.end()) continue;
    const double seconds = predicted_wall(it->index);
    if (best.index < 0 || seconds > best.seconds || (seconds == best.seconds && it->id < best.id))
      best = {it->index, it->id, key.width, seconds};
  }
  return best;
}

/// Free ranks for a task, rising; empty when it should wait for a rank that it has not failed on.
std::vector<int> Coordinator::choose_members(std::int64_t index) const {
  const auto width = static_cast<std::size_t>(task(index).width);
  const std::set<int>& failed_on = states_[static_cast<std::size_t>(index)].failed_on;
  std::size_t n_others = 0;
  for (int rank = 0; rank < n_ranks_; ++rank)
    if (!workers_[static_cast<std::size_t>(rank)].left_out && !failed_on.contains(rank)) ++n_others;
  const bool others_exist = n_others >= width;
  std::vector<int> members;
  for (auto it = free_.begin(); it != free_.end() && members.size() < width; ++it)
    if (!others_exist || !failed_on.contains(*it)) members.push_back(*it);
  if (members.size() < width) members.clear();
  return members;
}

/// Predicted time until n_more ranks beyond the free ones are free.
double Coordinator::seconds_until_free(int n_more, double now) const {
  std::vector<double> remaining;
  for (const WorkerSlot& worker : workers_) {
    if (worker.tasks.empty()) continue;
    remaining.push_back(std::max(0.0, worker.since + predicted_wall(worker.tasks.front().index) - now));
  }
  if (n_more < 1 || n_more > std::ssize(remaining)) return kNoLimit;
  std::nth_element(remaining.begin(), remaining.begin() + (n_more - 1), remaining.end());
  return remaining[static_cast<std::size_t>(n_more - 1)];
}

void Coordinator::give(const Candidate& candidate, const std::vector<int>& members, double now,
                       std::vector<AddressedCommand>& commands) {
  const Task& chosen = task(candidate.index);
  queues_[{chosen.width, chosen.kind}].erase(place_in_queue(candidate.index));
  --n_waiting_;
  hand_out(running_, candidate.index, candidate.seconds, members, now, commands);
}

void Coordinator::hand_out(std::map<std::int64_t, Running>& runs, std::int64_t index, double seconds,
                           const std::vector<int>& members, double now, std::vector<AddressedCommand>& commands) {
  ++sequence_;
  for (const int member : members) {
    WorkerSlot& worker = workers_[static_cast<std::size_t>(member)];
    if (free_.erase(member) > 0)
      worker.since = now;
    else
      worker.queued_seconds += seconds;
    worker.tasks.push_back({index, seconds});
    Command command;
    command.task = index;
    command.sequence = sequence_;
    command.members = members;
    commands.push_back({member, std::move(command)});
  }
  Running running;
  running.members = members;
  running.started = now;
  running.sequence = sequence_;
  runs.emplace(index, std::move(running));
}

/// Only tasks of kinds that have been measured, since a guess may be far off, and no retries, which have a choice of
/// ranks.
void Coordinator::look_ahead(int rank, double now, std::vector<AddressedCommand>& commands) {
  const WorkerSlot& worker = workers_[static_cast<std::size_t>(rank)];
  if (has_wide_ || finished_ || draining() || worker.tasks.empty() || worker.left_out) return;
  while (n_waiting_ > kLastTasks * n_ranks_) {
    const Candidate next = best_candidate({}, 1, kNoLimit);
    const double seconds = worker.queued_seconds + next.seconds;
    if (seconds > kShortTasksSeconds && (worker.tasks.size() > 1 || seconds > kLookAheadSeconds)) return;
    if (states_[static_cast<std::size_t>(next.index)].tries > 0 || !cost_model_.has_seen(task(next.index).kind)) return;
    give(next, {rank}, now, commands);
  }
}

bool Coordinator::all_have_more() const {
  return std::all_of(workers_.begin(), workers_.end(),
                     [](const WorkerSlot& worker) { return worker.tasks.size() > 1; });
}

void Coordinator::dispatch(double now, std::vector<AddressedCommand>& commands) {
  // Wide tasks are to find the same ranks in every run, so nothing starts before all ranks are there.
  if (finished_ || draining() || (has_wide_ && n_ready_ < n_ranks_)) return;
  std::unordered_set<std::int64_t> passed_over;
  double longest = kNoLimit;
  while (!free_.empty()) {
    const int widest = longest < kNoLimit ? static_cast<int>(free_.size()) : n_ranks_;
    const Candidate candidate = best_candidate(passed_over, widest, longest);
    if (candidate.index < 0) return;
    const std::vector<int> members = choose_members(candidate.index);
    if (members.empty()) {
      passed_over.insert(candidate.index);
      // Free ranks gather for the first wide task that waits; what may start before it must be over by then.
      const int n_missing = candidate.width - static_cast<int>(free_.size());
      if (candidate.width > 1 && longest == kNoLimit) longest = seconds_until_free(std::max(1, n_missing), now);
      continue;
    }
    give(candidate, members, now, commands);
  }
}

void Coordinator::finish_when_done(double now, std::vector<AddressedCommand>& commands) {
  if (finished_ || n_ready_ < n_ranks_ || !running_.empty() || !doubles_.empty() || (n_waiting_ > 0 && !draining()))
    return;
  if (events_.progress) guarded([&] { events_.progress(progress(now)); });
  if (events_.commit) guarded(events_.commit);
  finished_ = true;
  next_progress_ = kNoLimit;
  const PhaseResult phase = result();
  Command command;
  command.kind = Command::Kind::finish;
  command.stopped = phase.stopped;
  command.quarantined = phase.quarantined;
  if (error_ != nullptr) {
    command.error_code = static_cast<int>(core::ExitCode::system);
    try {
      std::rethrow_exception(error_);
    } catch (const core::Error& error) {
      command.error_code = static_cast<int>(error.exit_code());
      command.error = error.what();
    } catch (const std::exception& error) {
      command.error = error.what();
    } catch (...) {
      command.error = "unknown exception";
    }
  }
  for (int rank = 0; rank < n_ranks_; ++rank) commands.push_back({rank, command});
}

PhaseResult Coordinator::result() const {
  PhaseResult phase;
  phase.stopped = stop_requested_ && n_waiting_ > 0;
  phase.quarantined = quarantined_;
  std::sort(phase.quarantined.begin(), phase.quarantined.end());
  phase.cost = cost_;
  return phase;
}

Progress Coordinator::progress(double now) const {
  Progress progress;
  progress.done = n_done_;
  progress.failed = std::ssize(quarantined_);
  progress.total = std::ssize(tasks_);
  progress.elapsed_seconds = now;
  double work = 0, longest = 0;  // rank-seconds, seconds
  for (const auto& [key, queue] : queues_) {
    if (queue.empty()) continue;
    double base = 0;
    for (const Waiting& waiting : queue) base += waiting.predicted;
    const double first = queue.begin()->predicted, seconds = predicted_wall(queue.begin()->index);
    if (first > 0) work += base * (seconds / first) * key.width;
    longest = std::max(longest, seconds);
  }
  for (const auto& [index, running] : running_) {
    const double left = std::max(0.0, running.started + predicted_wall(index) - now);
    work += left * static_cast<double>(running.members.size());
    longest = std::max(longest, left);
  }
  progress.eta_seconds = std::max(work / n_ranks_, longest);
  for (const WorkerSlot& worker : workers_) {
    WorkerState state;
    state.busy_seconds = worker.busy_before;
    if (!worker.tasks.empty()) {
      state.task = task(worker.tasks.front().index).name;
      state.since_seconds = worker.since;
      state.busy_seconds += now - worker.since;
    }
    progress.workers.push_back(std::move(state));
  }
  return progress;
}

}  // namespace voronoi::sched
