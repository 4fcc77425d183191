#include "sched/worker.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <optional>
#include <set>
#include <utility>

#include "comm/mpi_team.h"
#include "core/error.h"

namespace voronoi::sched {
namespace {

/// How a callback ended that threw.
struct Failure {
  core::ExitCode code = core::ExitCode::ok;
  std::string text;
};

/// Call inside a catch block.
Failure current_failure() {
  try {
    throw;
  } catch (const core::Error& error) {
    return {error.exit_code(), error.what()};
  } catch (const std::exception& error) {
    return {core::ExitCode::system, error.what()};
  } catch (...) {
    return {core::ExitCode::system, "unknown exception"};
  }
}

void run_alone(const Task& task, const TaskCallback& callback, const std::function<bool()>& stop,
               WorkerMessage& message) {
  try {
    core::SoloTeam team;
    team.stop_when(stop);
    message.text = callback(task, team);
    message.status = TaskStatus::ok;
  } catch (...) {
    const Failure failure = current_failure();
    message.status = failure.code == core::ExitCode::stopped ? TaskStatus::stopped : TaskStatus::failed;
    message.error_code = static_cast<int>(failure.code);
    message.at_fault = true;
    message.text = failure.text;
  }
}

void run_together(const comm::Communicator& parent, const Command& command, const Task& task,
                  const TaskCallback& callback, const std::function<bool()>& stop, WorkerMessage& message) {
  // Tags recur after 32,768 hand-outs; two teams with one tag would have to be formed at the same time to meet.
  comm::MpiTeam team(parent, command.members, static_cast<int>(command.sequence % 32768));
  team.stop_when(stop);
  try {
    message.text = callback(task, team);
    team.finish();
  } catch (...) {
    const Failure failure = current_failure();
    team.fail(failure.code, failure.text);
  }
  const comm::TeamVerdict& verdict = team.verdict();
  if (verdict.ok) return;
  message.status = verdict.code == core::ExitCode::stopped ? TaskStatus::stopped : TaskStatus::failed;
  message.error_code = static_cast<int>(verdict.code);
  message.at_fault =
      std::find(verdict.failed_ranks.begin(), verdict.failed_ranks.end(), parent.rank()) != verdict.failed_ranks.end();
  message.text = verdict.text;
}

/// Commands in their order, looked through for those that take an earlier one back.
class Inbox {
 public:
  explicit Inbox(const comm::Communicator& replies) : replies_(replies) {}
  /// The next to obey; null once give_up says so.
  std::optional<Command> next(const std::function<bool()>& give_up) {
    while (commands_.empty())
      if (!receive(give_up)) return std::nullopt;
    Command command = std::move(commands_.front());
    commands_.pop_front();
    return command;
  }
  /// Whether the hand-out was taken back, by what has come until now.
  bool cancelled(std::int64_t sequence) {
    while (receive([] { return true; })) {
    }
    return cancelled_.contains(sequence);
  }

 private:
  bool receive(const std::function<bool()>& give_up) {
    comm::MessageInfo info;
    const auto bytes = replies_.receive_any(info, give_up);
    if (!bytes) return false;
    Command command = decode_command(*bytes);
    if (command.kind == Command::Kind::cancel)
      cancelled_.insert(command.sequence);
    else
      commands_.push_back(std::move(command));
    return true;
  }

  const comm::Communicator& replies_;
  std::deque<Command> commands_;
  std::set<std::int64_t> cancelled_;
};

}  // namespace

Command run_worker(const Channels& channels, const std::vector<Task>& tasks, const TaskCallback& callback,
                   const std::function<bool()>& stop, const std::atomic<bool>& coordinator_gone) {
  bool told_stop = false;
  const auto tell = [&](WorkerMessage& message) {
    if (!told_stop && stop && message.kind != WorkerMessage::Kind::left) told_stop = message.stop_requested = stop();
    channels.requests.post(encode(message), kCoordinatorRank, kMessageTag);
  };
  WorkerMessage ready;
  tell(ready);
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::duration duration) { return std::chrono::duration<double>(duration).count(); };
  std::optional<Clock::time_point> free_since;  // from the first task on
  Inbox inbox(channels.replies);
  for (;;) {
    std::optional<Command> next = inbox.next([&] { return coordinator_gone.load() || (!told_stop && stop && stop()); });
    if (!next) {
      if (coordinator_gone.load()) throw core::InternalError("the coordinator ended before its workers");
      told_stop = true;
      WorkerMessage message;
      message.kind = WorkerMessage::Kind::stop;
      message.stop_requested = true;
      tell(message);
      continue;
    }
    const Command& command = *next;
    if (command.kind == Command::Kind::finish) {
      WorkerMessage left;
      left.kind = WorkerMessage::Kind::left;
      tell(left);
      return *next;
    }
    if (command.task < 0 || command.task >= std::ssize(tasks))
      throw core::CommError("a command names a task that does not exist");
    const Task& task = tasks[static_cast<std::size_t>(command.task)];
    WorkerMessage message;
    message.kind = WorkerMessage::Kind::done;
    message.task = command.task;
    const Clock::time_point start = Clock::now();
    if (free_since) message.waited_seconds = seconds(start - *free_since);
    const auto leave = [&] { return (stop && stop()) || inbox.cancelled(command.sequence); };
    if (command.members.size() == 1 && leave())
      message.status = TaskStatus::stopped;  // it may be one of several that were handed out together
    else if (command.members.size() > 1)
      run_together(channels.teams, command, task, callback, stop, message);
    else
      run_alone(task, callback, leave, message);
    free_since = Clock::now();
    message.seconds = seconds(*free_since - start);
    tell(message);
  }
}

}  // namespace voronoi::sched
