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

/// Every element of the result is found by the same additions in the same order on any device: first S by halves of
/// doubling distance, then H by sums over its columns, kGemmDepth at a time, then the norm.
struct RotationKernels {
  /// Each row v of x [n_rows, n] becomes T v, or T^T v.
  void (*turn_rows)(const Exec&, const Rotation&, bool inverse, std::int64_t n_rows, float* x);
  /// Each column of x [n, n_columns] likewise.
  void (*turn_columns)(const Exec&, const Rotation&, bool inverse, std::int64_t n_columns, float* x);
};

}  // namespace voronoi::kernels
