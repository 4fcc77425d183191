// Linears with a code a weight and scales a group of columns: what the packed forms of such codes have in common.
// Device memory throughout.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/exec.h"

namespace voronoi::kernels {

/// A quantized linear in device memory. Row r, stored column j of group g = j / group_size, natural column c = perm[j]:
///   w[r, c] = (scale of (r, g) * step of code[r, j]) * column_scale[c],
/// where the form says what step a code is and which of a group's scales it takes.
struct PackedScalars {
  std::int64_t out_features = 0, in_features = 0;
  int bits = 0;                                 ///< a code
  std::int64_t group_size = 0;                  ///< stored columns a group; the last one may be shorter
  core::DType dtype = core::DType::f16;         ///< of scale and column_scale: f16 or bf16
  const std::uint32_t* codes = nullptr;         ///< [out, packed_words(in, bits)]
  const std::uint16_t* scale = nullptr;         ///< [out, n_groups, scales of the form]
  const std::uint16_t* perm = nullptr;          ///< [in] stored column -> natural column; null: identity
  const std::uint16_t* column_scale = nullptr;  ///< [in] natural column order; null: all are 1
};

inline constexpr std::int64_t kMaxScalarTokens = 16;

/// Entry points of one form.
template <class Packed>
struct ScalarKernels {
  /// weight [out, in] row-major, fp32 arithmetic on the stored values as format::decode: the same bits on every device.
  void (*decode_f32)(const Exec&, const Packed&, float* weight);
  /// The same rounded to the packed linear's 16-bit type.
  void (*decode_16)(const Exec&, const Packed&, std::uint16_t* weight);
  /// out [n_tokens, out] = x [n_tokens, in] W^T (+ out when accumulate), straight from the codes, 1 <= n_tokens <=
  /// kMaxScalarTokens; W as decoded but for the column scales, which x takes; fp32 x and sums in a fixed order.
  void (*fused_matmul)(const Exec&, const Packed&, std::int64_t n_tokens, const float* x, bool accumulate, float* out);
  /// As decode_f32 with scales in fp32 that are being tuned, laid out as the stored ones, which are not looked at.
  void (*decode_tuned)(const Exec&, const Packed&, const float* scale, float* weight);
  /// d_scale (laid out as scale) += the loss's derivative by the scales, d_weight [out, in] being that by
  /// decode_tuned's result: the sum over the columns that take a scale of d_weight times column scale times step, in a
  /// fixed order.
  void (*gradient)(const Exec&, const Packed&, const float* d_weight, float* d_scale);
};

}  // namespace voronoi::kernels
