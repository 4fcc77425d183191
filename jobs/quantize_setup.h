// Everything a quantization run needs before its first task: opened inputs, checked settings, the run directory and its
// state.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "backend/device.h"
#include "comm/mpi.h"
#include "core/types.h"
#include "jobs/heartbeat.h"
#include "jobs/quantize_options.h"
#include "jobs/run_state.h"
#include "model/corpus.h"
#include "model/weights.h"
#include "store/attempt.h"
#include "store/journal.h"
#include "store/run_lock.h"

namespace voronoi::jobs {

struct Inputs {
  std::unique_ptr<model::WeightSource> model;
  std::unique_ptr<model::Tokenizer> tokenizer;
  std::vector<model::Text> texts;
  model::Windows windows;                ///< calibration
  core::DType dtype = core::DType::f32;  ///< of the forward pass of calibration
  std::string calibration;               ///< fingerprint of all that decides the Hessians
  core::Json identity;                   ///< for run.json
};

/// Opens and checks everything that can be checked before any computing; every problem of the settings at once. Puts
/// into the options what --bits leaves to the model's size.
Inputs open_inputs(QuantizeOptions& options, const backend::Context& context);

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

/// Creates or resumes the run directory; collective. Layers whose file is missing or damaged are taken out of the state
/// (quarantined, journalled), so that they are made again.
Run open_run(const comm::Communicator& world, const QuantizeOptions& options, const Inputs& inputs);

}  // namespace voronoi::jobs
