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

/// What moving the codes adds to a step, all sequences together: the searches, and the passes over the buffers.
/// centroids: that a vector is held against, 0 in a uniform format.
struct CodesWork {
  double operations = 0, bytes = 0;
};
CodesWork codes_work(std::int64_t n_weights, std::int64_t centroids);

/// Of one block: a step's sequence, a held-out sequence, and both streams' way through it.
TuneWork block_work(const model::ModelConfig& config, std::int64_t layer, std::int64_t n_tokens,
                    const Sequences& sequences);

/// What is tuned, for predictions of memory.
struct TunedSizes {
  std::int64_t code_bytes = 0;    ///< of all packed linears without the numbers that are tuned
  std::int64_t n_parameters = 0;  ///< of the whole model
};

/// Bytes of one rank of a CPU, the program apart.
struct TuneMemory {
  std::int64_t block = 0, end_to_end = 0;
  std::int64_t codes = 0;  ///< as end_to_end, with the buffers of the rank that holds the most
};
TuneMemory tune_memory(const model::ModelConfig& config, const TunedSizes& sizes, std::int64_t n_tokens,
                       const Sequences& sequences, int n_ranks);

}  // namespace voronoi::tune
