// A run with its original model, opened for reading.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/json.h"
#include "jobs/run_state.h"
#include "model/weights.h"
#include "store/run_directory.h"

namespace voronoi::jobs {

struct RunModel {
  store::RunPaths paths;
  core::Json identity;
  RunState state;
  std::unique_ptr<model::WeightSource> original;
  std::string tokenizer;                      ///< path for open_tokenizer()
  std::vector<std::string> linears, missing;  ///< quantized, and not (yet), in the order of the model
  std::string method() const { return identity.at("quantization").at("method").get<std::string>(); }
};

/// Reads identity and journal and opens the original model, which must still be the one the run was made from. Throws
/// FormatError / StoreError.
RunModel open_run_model(const std::string& path);

/// Linears of all blocks, in the order of the model.
std::vector<model::LinearSpec> block_linears(const model::ModelConfig& config);

}  // namespace voronoi::jobs
