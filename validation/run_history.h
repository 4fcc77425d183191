// When and where a run's work was done, from its journal: starts, stages, tasks by rank, and what went wrong on the
// way.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"
#include "run/records.h"

namespace voronoi::validation {

/// Seconds of work since the first start: the time between starts is left out.
struct Interval {
  double begin = 0, end = 0;
};

struct StartHistory {
  run::StartRecord record;
  Interval work;
  std::string ended;  ///< "finished", "stopped", or empty: killed, or still at work
};

struct TaskHistory {
  std::string task;
  std::int64_t rank = 0, width = 1;  ///< the team's lowest rank and its size
  Interval work;
};

struct StageHistory {
  std::string stage;
  Interval work;
};

/// What was overcome; what was not stands in the run's failures.
struct Mishap {
  std::string what, error;
};

struct RunHistory {
  std::vector<StartHistory> starts;
  std::vector<TaskHistory> tasks;
  std::vector<StageHistory> stages;  ///< one after another; a stage has many
  std::vector<Mishap> mishaps;
  double seconds = 0;       ///< of work of all starts
  double rank_seconds = 0;  ///< the same times their ranks
  double core_seconds = 0;  ///< times the threads of each; of starts that tell their machine
  double gpu_seconds = 0;   ///< of starts on GPUs
};

/// Of all lines of a journal. Records of earlier versions, which tell no time or rank, are left out of tasks and
/// stages. Throws FormatError.
RunHistory read_history(const std::vector<core::Json>& records, const std::string& file);

}  // namespace voronoi::validation
