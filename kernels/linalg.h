// Dense linear algebra over raw pointers. Row-major throughout; ld* = elements between rows.
// Results do not depend on the thread count: work is cut into tiles of fixed size.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/exec.h"

namespace voronoi::kernels {

/// The CPU's gram_accumulate packs at most so many rows at a time, and so many fp32 values of them.
inline constexpr std::int64_t kCpuGramRows = 2048, kCpuGramValues = 4 << 20;

struct LinalgKernels {
  /// C [m, n] = alpha * op(A) op(B) + beta * C; op(A) is [m, k], op(B) is [k, n]. beta == 0 ignores C's content.
  void (*gemm_f32)(const Exec&, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
                   float alpha, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta,
                   float* c, std::int64_t ldc);
  void (*gemm_f64)(const Exec&, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
                   double alpha, const double* a, std::int64_t lda, const double* b, std::int64_t ldb, double beta,
                   double* c, std::int64_t ldc);
  /// C [m, n] = A [m, k] W^T + beta C with W [n, k] stored in 16 bits (bits of `dtype`, f16 or bf16): A is rounded to
  /// that type, products are exact and summed in fp32. beta is 0 or 1. What a GPU's tensor cores do. On the CPU a row's
  /// result does not depend on the rows beside it; kernels/cpu/bf16.h has the order of bf16's sums.
  void (*gemm_16)(const Exec&, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda,
                  core::DType dtype, const std::uint16_t* w, std::int64_t ldw, float beta, float* c, std::int64_t ldc);
  /// The same for C [m, n] = A [m, k] W + beta C with W [k, n]: what gemm_16 means for its input.
  void (*gemm_16_back)(const Exec&, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda,
                       core::DType dtype, const std::uint16_t* w, std::int64_t ldw, float beta, float* c,
                       std::int64_t ldc);
  /// C [m, n] = A^T B for A [k, m] and B [k, n], both rounded to `dtype` (f16 or bf16): what gemm_16 means for its
  /// weight, A being the derivative by the product and B its input.
  void (*gemm_16_outer)(const Exec&, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda,
                        const float* b, std::int64_t ldb, core::DType dtype, float* c, std::int64_t ldc);
  /// bits [n] = x [n] rounded to `dtype` (f16 or bf16).
  void (*round_16)(const Exec&, std::int64_t n, const float* x, core::DType dtype, std::uint16_t* bits);
  /// sum += the lower triangle (row >= column) of X^T X, row by row [n (n + 1) / 2], for X [n_rows, n] rounded to
  /// `dtype` (f32: as it is; f16 or bf16: the values that the layer's product sees): products in fp32 over a bounded
  /// number of rows (a constant of the device) at a time, merged in fp64.
  void (*gram_accumulate)(const Exec&, std::int64_t n_rows, std::int64_t n, const float* x, std::int64_t ldx,
                          core::DType dtype, double* sum);
  /// In place A [n, n] -> L, lower, A = L L^T (upper part left as it was). Returns 0, or the 1-based order of the
  /// leading minor that is not positive definite.
  std::int64_t (*cholesky_lower_f64)(const Exec&, std::int64_t n, double* a, std::int64_t lda);
  /// In place inverse of a lower triangular matrix. Returns 0, or the 1-based index of a zero on the diagonal.
  std::int64_t (*invert_lower_f64)(const Exec&, std::int64_t n, double* l, std::int64_t ldl);
  /// diagonal[i] = full[i, i] of full [n, n].
  void (*diagonal_f64)(const Exec&, std::int64_t n, const double* full, double* diagonal);
  /// diagonal[i] = that of a lower triangle [n (n + 1) / 2], row by row.
  void (*packed_diagonal_f64)(const Exec&, std::int64_t n, const double* lower, double* diagonal);
  /// x += y over n values.
  void (*add_f64)(const Exec&, std::int64_t n, const double* y, double* x);
  /// x = y over n values.
  void (*widen_f64)(const Exec&, std::int64_t n, const float* y, double* x);
  /// out [n_ids, n] = x[ids[i], :] for x [*, n]; ids are in range, in any order and any number of times.
  void (*gather_rows_f32)(const Exec&, const std::int32_t* ids, std::int64_t n_ids, std::int64_t n, const float* x,
                          float* out);
  /// The same of rows stored in 16 bits (bits of `dtype`, f16 or bf16).
  void (*gather_rows_16)(const Exec&, const std::int32_t* ids, std::int64_t n_ids, std::int64_t n, core::DType dtype,
                         const std::uint16_t* x, float* out);
  /// bounded (host) [n_rows]: whether all values of a row of x [n_rows, n] are at most `largest` in magnitude.
  void (*bounded_rows)(const Exec&, std::int64_t n_rows, std::int64_t n, const float* x, float largest, bool* bounded);
};

}  // namespace voronoi::kernels
