// A rank's side of a phase: receive a task, run the callback, report.
#pragma once

#include <atomic>
#include <functional>
#include <vector>

#include "comm/mpi.h"
#include "sched/messages.h"
#include "sched/scheduler.h"

namespace voronoi::sched {

/// Rank that hosts the coordinator.
inline constexpr int kCoordinatorRank = 0;
inline constexpr int kMessageTag = 1;

/// Message spaces of a phase: on the coordinator's rank its thread and the worker receive at the same time, and teams
/// need a space without receives.
struct Channels {
  explicit Channels(const comm::Communicator& world)
      : requests(world.duplicate()), replies(world.duplicate()), teams(world.duplicate()) {}
  comm::Communicator requests;  ///< worker messages
  comm::Communicator replies;   ///< commands
  comm::Communicator teams;
};

/// Returns the finish command; throws when `coordinator_gone` becomes
/// true (it can only on the coordinator's rank).
Command run_worker(const Channels& channels, const std::vector<Task>& tasks, const TaskCallback& callback,
                   const std::function<bool()>& stop, const std::atomic<bool>& coordinator_gone);

}  // namespace voronoi::sched
