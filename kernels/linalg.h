// Dense linear algebra over raw pointers. Row-major throughout; ld* = elements between rows.
// Results do not depend on the thread count: work is cut into tiles of fixed size.
#pragma once

#include <cstdint>

#include "kernels/exec.h"

namespace voronoi::kernels {

struct LinalgKernels {
  /// C [m, n] = alpha * op(A) op(B) + beta * C; op(A) is [m, k], op(B) is [k, n]. beta == 0 ignores C's content.
  void (*gemm_f32)(const Exec&, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
                   float alpha, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta,
                   float* c, std::int64_t ldc);
  void (*gemm_f64)(const Exec&, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
                   double alpha, const double* a, std::int64_t lda, const double* b, std::int64_t ldb, double beta,
                   double* c, std::int64_t ldc);
  /// sum [n, n] += X^T X for X [n_rows, n]: products in fp32 over at most 2048 rows at a time, merged in fp64. Only the
  /// lower triangle (row >= column) is written.
  void (*gram_accumulate)(const Exec&, std::int64_t n_rows, std::int64_t n, const float* x, std::int64_t ldx,
                          double* sum);
  /// In place A [n, n] -> L, lower, A = L L^T (upper part left as it was). Returns 0, or the 1-based order of the
  /// leading minor that is not positive definite.
  std::int64_t (*cholesky_lower_f64)(const Exec&, std::int64_t n, double* a, std::int64_t lda);
  /// In place inverse of a lower triangular matrix. Returns 0, or the 1-based index of a zero on the diagonal.
  std::int64_t (*invert_lower_f64)(const Exec&, std::int64_t n, double* l, std::int64_t ldl);
};

}  // namespace voronoi::kernels
