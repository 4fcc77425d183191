// What calibration does on all ranks together, told before: the quantities that core/work_counts.h counts.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/footprint.h"
#include "core/work_counts.h"
#include "model/config.h"

namespace voronoi::calib {

/// Elements of a block's linears, and of its other tensors.
struct BlockElements {
  double linears = 0, others = 0;
};
/// Of all blocks.
std::vector<BlockElements> block_elements(const model::ModelConfig& config);

/// A calibration, for predictions.
struct Calibrated {
  const model::ModelConfig& config;
  std::vector<BlockElements> blocks;  ///< of the config
  std::int64_t n_sequences = 0, context = 0;
  int n_ranks = 1;
  HessianKind kind;
  double bytes_a_weight = 2;  ///< of the model's tensors, as they are stored
};

/// Of the pass that tells what tokens count.
core::WorkCounts weighing_counts(const Calibrated& of);
/// Of the embeddings that a stream begins with.
core::WorkCounts embedding_counts(const Calibrated& of);
/// Of a block whose Hessians are made: its weights on every rank, the streams through it, sums of rows and over ranks.
/// Where experts are starved, what their pool sends is not in it.
core::WorkCounts collecting_counts(const Calibrated& of, std::int64_t layer);
/// Of the stream that leaves a block through its quantized weights; what is read of these is not in it.
core::WorkCounts leaving_counts(const Calibrated& of, std::int64_t layer);

}  // namespace voronoi::calib
