// Where a rank keeps what end-to-end tuning works on. It decides speed and memory, never a result.
#pragma once

#include <cstdint>

#include "model/config.h"

namespace voronoi::tune {

/// Host memory that a rank gives to the residual streams between blocks of one sequence: where they would take more,
/// every s-th is kept and those between are computed again.
inline constexpr std::int64_t kStreamBytes = std::int64_t{8} << 30;
/// Bytes of hidden states that run through the teacher together.
inline constexpr std::int64_t kTeacherBytes = std::int64_t{1} << 30;
/// Memory that a rank of a CPU gives to tapes.
inline constexpr std::int64_t kTapeBytes = std::int64_t{4} << 30;

struct Residence {
  std::int64_t n_taped = 0;  ///< blocks, the last ones, that are not run a second time for their backward pass
  /// The codes lie in host memory; those of the block at work and of the next are on the device.
  bool codes_on_host = false;
  std::int64_t stream_bytes = kStreamBytes;
};

/// Between which of n_layers blocks the stream is kept: every stride-th, so that `budget` bytes hold them all, or one.
std::int64_t stream_stride(std::int64_t n_layers, std::int64_t n_tokens, std::int64_t hidden_size,
                           std::int64_t budget = kStreamBytes);

/// As many of the last blocks as have tapes of n_tokens within `budget` bytes.
std::int64_t taped_blocks(const model::ModelConfig& config, std::int64_t n_tokens, std::int64_t budget);

}  // namespace voronoi::tune
