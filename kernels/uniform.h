// A linear packed in uniform codes: its decoding, and products straight from the codes. Device memory throughout.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/exec.h"

namespace voronoi::kernels {

/// A quantized linear in device memory, arrays as format::UniformEncoding lays them out. Row r, stored column j of
/// group g = j / group_size: w[r, perm[j]] = scale[r, g] * (code[r, j] - zero[r, g]).
struct PackedUniform {
  std::int64_t out_features = 0, in_features = 0;
  int bits = 0;                          ///< a code and a zero, 1..16
  std::int64_t group_size = 0;           ///< stored columns a group; the last one may be shorter
  core::DType dtype = core::DType::f16;  ///< of the scales: f16 or bf16
  const std::uint32_t* codes = nullptr;  ///< [out, packed_words(in, bits)]
  const std::uint32_t* zeros = nullptr;  ///< [out, packed_words(n_groups, bits)]
  const std::uint16_t* scale = nullptr;  ///< [out, n_groups]
  const std::uint16_t* perm = nullptr;   ///< [in] stored column -> natural column; null: identity
};

inline constexpr std::int64_t kMaxUniformTokens = 16;

struct UniformKernels {
  /// weight [out, in] row-major, fp32 arithmetic on the stored values as format::decode: the same bits on every device.
  void (*decode_f32)(const Exec&, const PackedUniform&, float* weight);
  /// The same rounded to the packed linear's 16-bit type.
  void (*decode_16)(const Exec&, const PackedUniform&, std::uint16_t* weight);
  /// out [n_tokens, out] = x [n_tokens, in] W^T (+ out when accumulate), straight from the codes, 1 <= n_tokens <=
  /// kMaxUniformTokens; W as decoded, fp32 x and sums in a fixed order.
  void (*fused_matmul)(const Exec&, const PackedUniform&, std::int64_t n_tokens, const float* x, bool accumulate,
                       float* out);
  /// As decode_f32 with scales in fp32 that are being tuned, [out, n_groups]; those of the packed linear are not looked
  /// at.
  void (*decode_tuned)(const Exec&, const PackedUniform&, const float* scale, float* weight);
  /// d_scale [out, n_groups] += the loss's derivative by the scales, d_weight [out, in] being that by decode_tuned's
  /// result: the sum over a group's columns of d_weight times (code - zero), in a fixed order.
  void (*gradient)(const Exec&, const PackedUniform&, const float* d_weight, float* d_scale);
};

}  // namespace voronoi::kernels
