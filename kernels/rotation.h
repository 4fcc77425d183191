// Orthogonal turns of vectors by Hadamard matrices and random signs. Device memory throughout.
#pragma once

#include <cstdint>

#include "kernels/exec.h"

namespace voronoi::kernels {

/// T = (I (x) H (x) S) D / sqrt(order * block): D a diagonal of signs, S Sylvester's Hadamard matrix of a power of two,
/// H a Hadamard matrix of any order, (x) the Kronecker product, the first coordinate's factor outermost. I as large as
/// n asks for.
struct Rotation {
  std::int64_t n = 0;                     ///< 0: no rotation
  std::int64_t order = 1, block = 1;      ///< of H and of S; their product divides n
  const std::uint32_t* factor = nullptr;  ///< H [order, ceil(order / 32)]: bit j % 32 of word j / 32 set where -1
  const std::uint32_t* signs = nullptr;   ///< D [ceil(n / 32)]: bits likewise
};

/// What a matrix between rotations is multiplied by outside of them once it has been tuned: W = diag(out) (T_out^T Q
/// T_in) diag(in), the signs of both sides relaxed to real numbers (QuIP#, arXiv 2402.04396, section 5).
struct SideFactors {
  const float* in = nullptr;   ///< [in]; null: ones
  const float* out = nullptr;  ///< [out]; null: ones
};

/// Every element of the result is found by the same additions in the same order on any device: first S by halves of
/// doubling distance, then H by sums over its columns, kGemmDepth at a time, then the norm.
struct RotationKernels {
  /// Each row v of x [n_rows, n] becomes T v, or T^T v.
  void (*turn_rows)(const Exec&, const Rotation&, bool inverse, std::int64_t n_rows, float* x);
  /// Each column of x [n, n_columns] likewise.
  void (*turn_columns)(const Exec&, const Rotation&, bool inverse, std::int64_t n_columns, float* x);
  /// Adds what d_weight [n_out, n_in], the loss's derivative by weight [n_out, n_in], means for the factors that the
  /// weight holds, neither side's null: d_in[j] += (sum over i of d_weight[i, j] weight[i, j]) / in[j], d_out[i]
  /// likewise. A factor of 0 gets nothing. Sums in a fixed order: the same bits at each call and thread count.
  void (*factor_gradient)(const Exec&, std::int64_t n_out, std::int64_t n_in, const SideFactors&, const float* weight,
                          const float* d_weight, float* d_in, float* d_out);
};

}  // namespace voronoi::kernels
