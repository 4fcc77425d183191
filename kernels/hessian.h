// Reordering of a second moment around its factorization (kernels/linalg.h): all arrays in device memory, matrices [n,
// n] row-major. Exact but for the rounding stated.
#pragma once

#include <cstdint>

#include "kernels/exec.h"

namespace voronoi::kernels {

struct HessianKernels {
  /// Both triangles from the packed lower one, row by row [n (n + 1) / 2].
  void (*unpack)(const Exec&, std::int64_t n, const float* lower, float* matrix);
  /// diagonal[i] = matrix[i, i].
  void (*get_diagonal)(const Exec&, std::int64_t n, const float* matrix, float* diagonal);
  void (*set_diagonal)(const Exec&, std::int64_t n, const float* diagonal, float* matrix);
  /// out[i, j] = matrix[perm[i], perm[j]]; out is not matrix.
  void (*permute)(const Exec&, std::int64_t n, const float* matrix, const std::int32_t* perm, float* out);
  /// out = J P H P^T J + damping I in fp64 with J the reversal: out[i, j] = matrix[perm[n-1-i], perm[n-1-j]] for j <=
  /// i, zero above the diagonal.
  void (*reverse)(const Exec&, std::int64_t n, const float* matrix, const std::int32_t* perm, double damping,
                  double* out);
  /// The upper J L J from a lower L: out[i, j] = L[n-1-i, n-1-j] rounded to fp32 for j >= i, zero below. Returns
  /// whether all of it is finite and its diagonal positive.
  bool (*reverse_back)(const Exec&, std::int64_t n, const double* lower, float* out);
};

}  // namespace voronoi::kernels
