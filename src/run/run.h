// A run directory opened for writing, and its state.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "comm/mpi.h"
#include "core/json.h"
#include "run/heartbeat.h"
#include "run/run_state.h"
#include "run/settings.h"
#include "store/attempt.h"
#include "store/journal.h"
#include "store/run_lock.h"

namespace voronoi::run {

/// The run as it stands. Journal, lock and state are rank 0's alone.
struct Run {
  store::RunPaths paths;
  std::unique_ptr<store::RunLock> lock;
  std::unique_ptr<store::Attempt> attempt;     ///< on every rank
  std::unique_ptr<HeartbeatWriter> heartbeat;  ///< rank 0 uses it
  std::unique_ptr<store::Journal> journal;
  RunState state;                     ///< as the journal says it, without the layers' statistics
  std::set<std::string> done;         ///< linears that were finished when it was opened, on every rank
  quant::QuantParameters parameters;  ///< with all --set applied

  /// Into the state, and into the journal with the next commit.
  void add(const core::Json& record);
  /// The same, and on disk when this returns.
  void append(const core::Json& record);
  /// A record that stands in the journal.
  void take_into_account(const core::Json& record);
};

/// `identity`: what run.json says, see store::check_or_write_identity.
/// Creates or resumes the run directory; collective. Layers whose file is missing or damaged are taken out of the state
/// (quarantined, journalled), so that they are made again.
Run open_run(const comm::Communicator& world, const Settings& options, const core::Json& identity);

}  // namespace voronoi::run
