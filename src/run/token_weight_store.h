// What the tokens of a chunk count, as a file of a run directory: a start that goes on need not compute it again.
#pragma once

#include <cstdint>
#include <string>

#include "calib/token_weights.h"
#include "model/config.h"
#include "store/start.h"

namespace voronoi::run {

/// `calibration`: as of write_hessian. Throws StoreError.
void write_token_weights(const store::Start& start, std::int64_t chunk, const calib::ChunkWeights& weights,
                         const std::string& calibration);
/// row_groups: as TokenWeights takes it. Throws FormatError for a file of another calibration, chunk or model, or of
/// numbers that are no weights; StoreError.
calib::ChunkWeights read_token_weights(const store::RunPaths& paths, std::int64_t chunk,
                                       const model::ModelConfig& config, std::int64_t row_groups,
                                       const std::string& calibration);

}  // namespace voronoi::run
