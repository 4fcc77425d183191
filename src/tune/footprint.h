// What tuning takes: operations and memory, from a model's sizes alone.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "model/config.h"
#include "tune/residence.h"
#include "tune/sequences.h"

namespace voronoi::tune {

/// Operations of products in fp32; a multiplication and an addition count as two.
struct TuneWork {
  double teacher = 0;   ///< hidden states behind the last block, of all sequences, once
  double step = 0;      ///< of one sequence: student forward, blocks without a tape again, derivatives by inputs and
                        ///< weights, the head
  double held_out = 0;  ///< of one sequence: student forward and the head, for both models
};
TuneWork end_to_end_work(const model::ModelConfig& config, std::int64_t n_tokens, const Sequences& sequences,
                         const Residence& residence);

/// What moving the codes adds to a step, all sequences together: the searches, and the passes over the buffers.
/// centroids: that a vector is held against, 0 in a uniform format.
struct CodesWork {
  double operations = 0, bytes = 0;
};
CodesWork codes_work(std::int64_t n_weights, std::int64_t centroids);

/// What training the weights behind the codes adds to a step of all sequences: bytes that pass through memory, on ranks
/// that share them.
double weights_bytes(std::int64_t n_weights, const Sequences& sequences);

/// Of one block: a step's sequence, a held-out sequence, and both streams' way through it.
TuneWork block_work(const model::ModelConfig& config, std::int64_t layer, std::int64_t n_tokens,
                    const Sequences& sequences);

/// What is tuned, for predictions of memory.
struct TunedSizes {
  std::int64_t code_bytes = 0;           ///< of all packed linears without the numbers that are tuned
  std::int64_t n_parameters = 0;         ///< of the whole model
  core::DType dtype = core::DType::f32;  ///< of products: f32, bf16
};

/// Bytes of one rank, the program apart; where the device is the host both are one memory.
struct PhaseMemory {
  std::int64_t host = 0, device = 0;
};
struct TuneMemory {
  PhaseMemory block, end_to_end;
  PhaseMemory codes;    ///< as end_to_end, with the buffers of the rank that holds the most
  PhaseMemory weights;  ///< as end_to_end, with weights and moments of the rank that owns the most
  /// End to end, of a device that is not the host: while the teacher runs, whose next block is on its way.
  std::int64_t teaching = 0;
};
TuneMemory tune_memory(const model::ModelConfig& config, const TunedSizes& sizes, std::int64_t n_tokens,
                       const Sequences& sequences, int n_ranks, const Residence& residence);

/// For a device of its own memory of device_bytes; 0: the device is the host.
Residence choose_residence(const model::ModelConfig& config, const TunedSizes& sizes, std::int64_t n_tokens,
                           const Sequences& sequences, int n_ranks, std::int64_t device_bytes);

}  // namespace voronoi::tune
