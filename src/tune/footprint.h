// What tuning takes: operations and memory, from a model's sizes alone.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "tune/sequences.h"

namespace voronoi::tune {

/// Operations of products in fp32; a multiplication and an addition count as two.
struct TuneWork {
  double teacher = 0;   ///< hidden states behind the last block, of all sequences, once
  double step = 0;      ///< of one sequence: student forward, blocks again, derivatives by inputs and weights, the head
  double held_out = 0;  ///< of one sequence: student forward and the head, for both models
};
TuneWork end_to_end_work(const model::ModelConfig& config, std::int64_t n_tokens, const Sequences& sequences);

/// Of one block: a step's sequence, a held-out sequence, and both streams' way through it.
TuneWork block_work(const model::ModelConfig& config, std::int64_t layer, std::int64_t n_tokens,
                    const Sequences& sequences);

}  // namespace voronoi::tune
