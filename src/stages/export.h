// A run as a checkpoint in a public layout, for the command and the stage of that name.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "comm/mpi.h"
#include "export/layout.h"
#include "export/unfinished.h"
#include "model/weights.h"
#include "run/run.h"
#include "run/run_state.h"
#include "run/settings.h"
#include "stages/inputs.h"
#include "store/run_directory.h"

namespace voronoi::stages {

/// What is exported; everything referred to must outlive the call.
struct ExportSource {
  const store::RunPaths& paths;
  const run::RunState& state;
  const model::WeightSource& original;
  std::string tokenizer, method;
};

/// Makes the checkpoint in `place`, finished but for its name; collective. Each rank looks at its share of the layers,
/// then writes its share of the files; those that an earlier process left whole are not written again. Each shard must
/// be the one that was journalled. `progress` is told after each layer, of about how many all ranks have done.
///
/// Throws ConfigError with every reason against it, layers that are not quantized and what the format cannot hold, and
/// BadValues of a tensor that would be stored as it is: on every rank the same, so that the caller agrees on it. Else
/// as together() does (comm/agreement.h).
void export_run(const comm::Communicator& world, const ExportSource& source, const exporting::Target& target,
                const exporting::UnfinishedExport& place,
                const std::function<void(const std::string&, std::size_t, std::size_t)>& progress);

}  // namespace voronoi::stages
