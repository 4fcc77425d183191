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

/// Worker messages go over `requests`, commands come over `replies`. Returns the finish command; throws when `coordinator_gone` becomes
/// true (it can only on the coordinator's rank).
Command run_worker(const comm::Communicator& requests, const comm::Communicator& replies, const std::vector<Task>& tasks,
                   const TaskCallback& callback, const std::function<bool()>& stop, const std::atomic<bool>& coordinator_gone);

}  // namespace voronoi::sched
