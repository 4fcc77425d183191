// A run as a checkpoint in a public layout, for the command and the stage of that name.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "export/layout.h"
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

/// Writes the checkpoint to `out`; throws ConfigError with every reason against it: layers that are not quantized, and
/// what the format cannot hold. Each shard must be the one that was journalled. `progress` is told after each layer.
void export_run(const ExportSource& source, const exporting::Target& target, const std::filesystem::path& out,
                const std::filesystem::path& temporary,
                const std::function<void(const std::string&, std::size_t, std::size_t)>& progress);

}  // namespace voronoi::stages
