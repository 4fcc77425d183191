// A linear packed in VPTQ's public layout: its decoding, and products straight from the indices. Device memory
// throughout.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/exec.h"

namespace voronoi::kernels {

/// A quantized linear in device memory, arrays as format::VqEncoding lays them out (bits of `dtype`, f16 or bf16).
struct PackedVptq {
  std::int64_t out_features = 0, in_features = 0;
  std::int64_t v = 0;                    ///< vector length, 2..16
  int main_bits = 0, residual_bits = 0;  ///< log2 k in 1..16, log2 kr in 0..16 (0: no residual)
  std::int64_t groups = 1, group_size = 0;
  std::int64_t outlier_size = 0, v0 = 0, k0 = 0;
  core::DType dtype = core::DType::f16;
  const std::uint32_t* indices = nullptr;   ///< [groups, ceil(out/v), ceil(group_size T / 32)]
  const std::uint16_t* codebook = nullptr;  ///< [groups, k, v]
  const std::uint16_t* residual_codebook = nullptr;
  const std::uint16_t* outlier_codebook = nullptr;  ///< [k0, v0]
  const std::uint16_t* outlier_indices = nullptr;   ///< [ceil(out/v0), outlier_size]
  const std::uint16_t* scale = nullptr;             ///< [in], natural order
  const std::uint16_t* bias = nullptr;              ///< [in]
  const std::uint16_t* perm = nullptr;              ///< [in] stored column -> natural column; null: identity
};

/// The same with numbers in fp32 that are being tuned; those of `packed` are not looked at.
struct TunedVptq {
  PackedVptq packed;
  const float* codebook = nullptr;           ///< [groups, k, v]
  const float* residual_codebook = nullptr;  ///< [groups, kr, v]; null without a residual
  const float* outlier_codebook = nullptr;   ///< [k0, v0]; null without outliers
  const float* scale = nullptr;              ///< [in], natural order
  const float* bias = nullptr;               ///< [in]
};

/// Sums by the numbers of TunedVptq, of the same shapes; null where those are.
struct VptqGradient {
  float *codebook = nullptr, *residual_codebook = nullptr, *outlier_codebook = nullptr, *scale = nullptr,
        *bias = nullptr;
};

inline constexpr std::int64_t kMaxVptqTokens = 16;
/// Whether fused_matmul takes the linear's vector lengths.
constexpr bool fused_length(const PackedVptq& p) {
  return (p.v == 4 || p.v == 6 || p.v == 8 || p.v == 12 || p.v == 16) && p.v0 <= 16;
}

struct VptqKernels {
  /// weight [out, in] row-major, fp32 arithmetic on the stored values as format::decode: the same bits on every device.
  void (*decode_f32)(const Exec&, const PackedVptq&, float* weight);
  /// The same rounded to the packed linear's 16-bit type.
  void (*decode_16)(const Exec&, const PackedVptq&, std::uint16_t* weight);
  /// out [n_tokens, out] = x [n_tokens, in] W^T (+ out when accumulate), straight from the packed indices, 1 <=
  /// n_tokens <= kMaxVptqTokens, fused_length(packed); fp32 x and sums in a fixed order.
  void (*fused_matmul)(const Exec&, const PackedVptq&, std::int64_t n_tokens, const float* x, bool accumulate,
                       float* out);
  /// weight [out, in] = (main + residual) * scale + bias of the tuned numbers, each operation rounded to fp32 once.
  void (*decode_tuned)(const Exec&, const TunedVptq&, float* weight);
  /// Adds what d_weight [out, in], the loss's derivative by decode_tuned's result, means for each number: a centroid
  /// gets the sum over its places of d_weight times the column's scale; a scale that of d_weight times the centroid
  /// (with its residual); a bias that of d_weight. Rows that only pad the last vector give nothing. The order of the
  /// sums is fixed: the same bits at each call and thread count.
  void (*gradient)(const Exec&, const TunedVptq&, const float* d_weight, const VptqGradient& sum);
};

}  // namespace voronoi::kernels
