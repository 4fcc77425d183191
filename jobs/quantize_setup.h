// Everything a quantization run needs before its first task: opened inputs, checked settings, the run directory and its
// state.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "jobs/quantize_options.h"
#include "jobs/run_state.h"
#include "model/corpus.h"
#include "model/weights.h"
#include "store/journal.h"
#include "store/run_directory.h"

namespace voronoi::jobs {

struct Inputs {
  std::unique_ptr<model::WeightSource> model;
  std::unique_ptr<model::Tokenizer> tokenizer;
  std::vector<model::Text> texts;
  model::Windows windows;   ///< calibration
  std::string calibration;  ///< fingerprint of all that decides the Hessians
  core::Json identity;      ///< for run.json
};

/// Opens and checks everything that can be checked before any computing; every problem of the settings at once. Puts
/// into the options what --bits leaves to the model's size.
Inputs open_inputs(QuantizeOptions& options);

/// The run as it stands. The journal and the lock are rank 0's alone.
struct Run {
  store::RunPaths paths;
  std::unique_ptr<store::RunLock> lock;
  std::unique_ptr<store::Journal> journal;
  RunState state;                     ///< on every rank
  quant::QuantParameters parameters;  ///< with all --set applied
  std::string attempt_tag;            ///< marks this attempt's temporary files
};

/// Creates or resumes the run directory; collective. Layers whose file is missing or damaged are taken out of the state
/// (quarantined, journalled), so that they are made again.
Run open_run(const comm::Communicator& world, const QuantizeOptions& options, const Inputs& inputs);

/// Only the current attempt may publish: throws StopRequested's kin when a later attempt has taken the run over.
void require_current_attempt(const Run& run);

}  // namespace voronoi::jobs
