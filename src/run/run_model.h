// A run with its original model, opened for reading.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/json.h"
#include "model/weights.h"
#include "run/run_state.h"
#include "store/run_directory.h"

namespace voronoi::run {

struct RunModel {
  store::RunPaths paths;
  core::Json identity;
  RunState state;
  std::unique_ptr<model::WeightSource> original;
  std::string tokenizer;  ///< path for open_tokenizer()
  /// Quantized, not (yet), and left as they are by rules: in the order of the model.
  std::vector<std::string> linears, missing, unquantized;
  std::string method() const { return identity.at("quantization").at("method").get<std::string>(); }
};

/// Reads identity and journal and opens the original model, which must still be the one the run was made from: where
/// the journal says, or at `original` where it moved. Throws FormatError / StoreError.
RunModel open_run_model(const std::string& path, const std::string& original = "");

/// "voronoi 2.08 bits": how a run is called in tables.
std::string run_label(const core::Json& identity, const RunState& state);

}  // namespace voronoi::run
