// A linear in lattice codes between two rotations (QuIP#): its decoding, and products straight from the codes. Device
// memory throughout, but for the search of codes, which is the host's alone, as the method is that calls it.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/e8p_table.h"
#include "kernels/exec.h"
#include "kernels/rotation.h"

namespace voronoi::kernels {

/// W = out^T Q in, times the factors of its sides; Q [out, in] = scale * (E8P codewords, with their residuals' where
/// there are any), a code for each 8 columns; coordinates past the last column do not count.
struct PackedE8p {
  std::int64_t out_features = 0, in_features = 0;
  core::DType dtype = core::DType::f16;  ///< that decode_16 rounds to: f16 or bf16
  float scale = 0;
  const std::uint16_t* codes = nullptr;         ///< [out, ceil(in / 8)]
  const std::uint8_t* e8_residual = nullptr;    ///< the same shape: E81B codes, at kE8Step; null: none
  const std::uint16_t* e8p_residual = nullptr;  ///< the same shape: E8P codes, at kE8pStep; null: none
  Rotation in, out;                             ///< of n = 0: none
  SideFactors factors;
};

inline constexpr std::int64_t kMaxE8pTokens = 16;

struct E8pKernels {
  /// weight [out, in] row-major, the same bits on every device.
  void (*decode_f32)(const Exec&, const PackedE8p&, float* weight);
  /// The same rounded to dtype.
  void (*decode_16)(const Exec&, const PackedE8p&, std::uint16_t* weight);
  /// out [n_tokens, out] = x [n_tokens, in] W^T (+ out when accumulate), 1 <= n_tokens <= kMaxE8pTokens: the tokens are
  /// turned, multiplied by the codes, and turned back. fp32, sums in a fixed order.
  void (*fused_matmul)(const Exec&, const PackedE8p&, std::int64_t n_tokens, const float* x, bool accumulate,
                       float* out);
};

// The search, host memory. Vectors stand side by side: coordinate i of vector v at x[i * stride + v].

/// Vectors are searched so many at a time: n and stride are multiples, x and values aligned to 64 bytes.
inline constexpr std::int64_t kE8pLanes = 16;

/// The nearest E8P codeword of each of n vectors, and its code. Of two that are equally near within a few roundings any
/// may be taken, the same on every machine.
void nearest_e8p(std::int64_t n, std::int64_t stride, const float* x, float* values, std::uint16_t* codes);
/// The nearest entry of E81B likewise.
void nearest_e8(std::int64_t n, std::int64_t stride, const float* x, float* values, std::uint16_t* codes);
/// The same of one vector whose first `dim` coordinates alone count, 1..7, from E81B (residual) or E8P.
std::uint16_t nearest_of_part(bool residual, int dim, const float* x);

/// The 8 coordinates of a codeword.
void decode_e8p(std::uint16_t code, float* values);
void decode_e8(std::uint8_t code, float* values);

}  // namespace voronoi::kernels
