// A run directory opened for writing, and its state.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "core/json.h"
#include "run/heartbeat.h"
#include "run/run_state.h"
#include "run/settings.h"
#include "store/journal.h"
#include "store/run_lock.h"
#include "store/start.h"

namespace voronoi::run {

/// The run as it stands. Journal, lock and state are rank 0's alone.
struct Run {
  store::RunPaths paths;
  std::unique_ptr<store::RunLock> lock;
  std::unique_ptr<store::Start> start;         ///< on every rank
  std::unique_ptr<HeartbeatWriter> heartbeat;  ///< rank 0 uses it
  std::unique_ptr<store::Journal> journal;
  RunState state;  ///< as the journal says it, without the layers' statistics
  /// Linears that are finished -> the oldest generation that is there, on every rank.
  std::map<std::string, std::int64_t> done;
  quant::RunParameters parameters;  ///< with all --set applied

  /// The parameters of the options, of --allocate and of all --set so far. Throws ConfigError.
  void take_parameters(const Settings& options);
  /// Into the state, and into the journal with the next commit.
  void add(const Record& record);
  /// The same, and on disk when this returns.
  void append(const Record& record);
  /// A record that stands in the journal, on whichever rank.
  void take_into_account(const Record& record);
};

/// Rank 0's part of open_run, once `run.start` has begun. Replays the journal and journals `start` under the next
/// number, with the assignments of --set. Warns of layers that another version of the program made.
void take_up(Run& run, StartRecord start, const std::vector<std::string>& set);
/// Then files and journal are made to agree; collective: each rank reads its share of the files. A journalled layer or
/// tensor whose file is missing or damaged is quarantined and journalled as lost, so that it is made again or the
/// generation before counts; files of generations that no record names are removed: they were published by a start that
/// ended before it could say so. Other ranks than 0 need but the paths of `run`.
void settle_files(const comm::Communicator& world, Run& run);

/// `identity`: what run.json says, see store::check_or_write_identity. `machine`: for the start's record.
/// Creates or resumes the run directory; collective. See take_up and settle_files for what it finds there.
Run open_run(const comm::Communicator& world, const Settings& options, const core::Json& identity,
             const core::Json& machine = {});
/// What a rank logs goes into this run's directory from now on; open_run does it.
void log_into(const Run& run, int rank);

/// Journals and tells the end of a start; collective. Whether something of the run was given up, on every rank; false
/// where it was stopped.
bool end_start(const comm::Communicator& world, Run& run, bool stopped);

}  // namespace voronoi::run
