// A linear packed in additive codes (AQLM): its decoding, products straight from the codes, and what tuning needs.
// Device memory throughout.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/exec.h"

namespace voronoi::kernels {

/// A quantized linear in device memory, arrays as format::AqlmEncoding lays them out. Row r, columns g j .. g j + g - 1
/// are (((0 + c_0) + c_1) + ...) times the row's scale, each operation rounded to fp32 once: c_m is centroid code(r, j,
/// m) of codebook m, a code the low `code_bits` bits of what is stored.
struct PackedAqlm {
  std::int64_t out_features = 0, in_features = 0;
  std::int64_t codebooks = 1;               ///< M
  int code_bits = 8;                        ///< log2 k, 1..16
  std::int64_t group = 8;                   ///< g; divides in
  core::DType dtype = core::DType::f16;     ///< of the 16-bit numbers: f16 or bf16
  const std::uint8_t* codes8 = nullptr;     ///< [out, in / g, M]; null where codes have more than 8 bits
  const std::uint16_t* codes16 = nullptr;   ///< the same; null where they have no more
  const std::uint16_t* codebook = nullptr;  ///< [M, k, g]
  const std::uint16_t* scale = nullptr;     ///< [out]

  std::int64_t groups() const { return in_features / group; }  ///< of a row
  std::int64_t book_size() const { return group << code_bits; }
};

/// The same with numbers in fp32 that are being tuned; those of `packed` are not looked at.
struct TunedAqlm {
  PackedAqlm packed;
  const float* codebook = nullptr;  ///< [M, k, g]
  const float* scale = nullptr;     ///< [out]
};

inline constexpr std::int64_t kMaxAqlmTokens = 16;

struct AqlmKernels {
  /// weight [out, in] row-major: the same bits on every device.
  void (*decode_f32)(const Exec&, const PackedAqlm&, float* weight);
  /// The same rounded to the packed linear's 16-bit type.
  void (*decode_16)(const Exec&, const PackedAqlm&, std::uint16_t* weight);
  /// out [n_tokens, out] = x [n_tokens, in] W^T (+ out when accumulate), straight from the codes, 1 <= n_tokens <=
  /// kMaxAqlmTokens; W as decoded, fp32 x and sums in a fixed order.
  void (*fused_matmul)(const Exec&, const PackedAqlm&, std::int64_t n_tokens, const float* x, bool accumulate,
                       float* out);
  /// weight [out, in] of the tuned numbers.
  void (*decode_tuned)(const Exec&, const TunedAqlm&, float* weight);
  /// Adds what d_weight [out, in], the loss's derivative by decode_tuned's result, means for each number: a centroid
  /// gets the sum over its places of d_weight times the row's scale, d_codebook [M, k, g]; a scale that of d_weight
  /// times the sum of the centroids, d_scale [out]. The order of the sums is fixed: the same bits at each call and
  /// thread count.
  void (*gradient)(const Exec&, const TunedAqlm&, const float* d_weight, float* d_codebook, float* d_scale);
};

}  // namespace voronoi::kernels
