// What coordinator and workers say to each other, and its byte form.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace voronoi::sched {

enum class TaskStatus : std::uint8_t { ok, failed, stopped };

/// Worker to coordinator. ready is the first message of a phase, left the last; done also says that the rank is free
/// again.
struct WorkerMessage {
  enum class Kind : std::uint8_t { ready, done, stop, left };
  Kind kind = Kind::ready;
  TaskStatus status = TaskStatus::ok;
  bool at_fault = false;  ///< done, failed: this rank failed by itself, not because another member of the team did
  bool stop_requested = false;
  int error_code = 0;     ///< done, failed: the error's exit code
  std::int64_t task = 0;  ///< index in the task list
  double seconds = 0;
  double waited_seconds = 0;  ///< done: between the end of the rank's task before and the beginning of this one
  std::string text;           ///< report or error
};

/// Coordinator to worker.
struct Command {
  enum class Kind : std::uint8_t { run, cancel, finish };
  Kind kind = Kind::run;
  std::int64_t task = 0;      ///< run, cancel: index in the task list
  std::int64_t sequence = 0;  ///< run: counts the hand-outs of a phase; tells teams apart. cancel: which to leave
  std::vector<int> members;   ///< run: ranks, rising
  bool stopped = false;       ///< finish: the phase's result
  std::vector<std::int64_t> quarantined;
  int error_code = 0;  ///< finish: 0 or the exit code of the error that ended the phase
  std::string error;
};

std::vector<std::byte> encode(const WorkerMessage& message);
std::vector<std::byte> encode(const Command& command);
/// Throw CommError when the bytes are no such message.
WorkerMessage decode_worker_message(std::span<const std::byte> bytes);
Command decode_command(std::span<const std::byte> bytes);

}  // namespace voronoi::sched
