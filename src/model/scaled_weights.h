// Weights that a checkpoint stores in 8 or 4 bits beside scales: what they are worth in fp32. Activations, which some
// of these checkpoints quantize as well, are left as they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/json.h"

namespace voronoi::model {

/// fp8_blocks: F8_E4M3 `NAME` [out, in] beside `NAME_scale_inv`, a factor for each block of block_rows x block_columns,
/// those at the edges smaller (DeepSeek-AI 2024, V3, section 3.3). fp8_rows: beside `NAME_scale` [out, 1]
/// (compressed-tensors, float-quantized). mxfp4: experts as `NAME_blocks` [experts, out, in / 32, 16] and `NAME_scales`
/// [experts, out, in / 32], bytes (OCP Microscaling Formats 1.0).
struct ScaledWeights {
  enum class Kind : std::uint8_t { none, fp8_blocks, fp8_rows, mxfp4 };
  Kind kind = Kind::none;
  std::int64_t block_rows = 0, block_columns = 0;
};

/// What config.json says of them; none: no quantization, or one of another kind.
ScaledWeights scaled_weights(const core::Json& config);

/// out[i] = scales[i / block] times the value of the F8_E4M3 byte; codes of NaN give NaN.
void decode_f8_row(std::span<const std::byte> bytes, const float* scales, std::int64_t block, float* out);

/// A row of MXFP4: 16 bytes make 32 values, the low four bits first, times 2^(scale - 127).
void decode_mxfp4_row(std::span<const std::byte> blocks, std::span<const std::byte> scales, float* out);

}  // namespace voronoi::model
