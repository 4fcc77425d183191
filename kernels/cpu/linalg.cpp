// Factorizations as recursions whose work is matrix products; only small diagonal blocks are plain loops. No vendor
// library decides the bits: they are the same on every machine with fused multiply-add.
#include <algorithm>

#include "core/error.h"
#include "core/types.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/triangular.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

constexpr std::int64_t kBaseOrder = kTriangularOrder;

/// Where an order is divided: a multiple of kBaseOrder near the middle.
std::int64_t middle(std::int64_t n) { return core::ceil_div(n / 2, kBaseOrder) * kBaseOrder; }

template <class T>
void gemm(const Exec& exec, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, T alpha,
          const T* a, std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc) {
  VORONOI_REQUIRE(m >= 0 && n >= 0 && k >= 0, "a matrix extent is negative");
  cpu_gemm(exec, MatrixProduct<T>{transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc});
}

/// X [m, n] = X L^-T for L lower.
void solve_right_transposed(const Exec& exec, std::int64_t m, std::int64_t n, const double* l, std::int64_t ldl,
                            double* x, std::int64_t ldx) {
  if (n > kBaseOrder) {
    const std::int64_t half = middle(n);
    solve_right_transposed(exec, m, half, l, ldl, x, ldx);
    gemm(exec, false, true, m, n - half, half, -1.0, x, ldx, l + half * ldl, ldl, 1.0, x + half, ldx);
    solve_right_transposed(exec, m, n - half, l + half * ldl + half, ldl, x + half, ldx);
    return;
  }
  constexpr std::int64_t kRows = 32;
  exec.pool->parallel_for(core::ceil_div(m, kRows), [&](std::int64_t chunk) {
    solve_rows_base(std::min(kRows, m - chunk * kRows), n, l, ldl, x + chunk * kRows * ldx, ldx);
  });
}

std::int64_t cholesky_lower(const Exec& exec, std::int64_t n, double* a, std::int64_t lda) {
  if (n <= kBaseOrder) return cholesky_base(n, a, lda);
  const std::int64_t half = middle(n), rest = n - half;
  double* below = a + half * lda;
  double* corner = below + half;
  if (const std::int64_t minor = cholesky_lower(exec, half, a, lda); minor != 0) return minor;
  solve_right_transposed(exec, rest, half, a, lda, below, lda);
  // The product's tiles reach over the diagonal, but what stands above it is to stay: the update goes through a buffer.
  Scratch<double> update(rest * rest);
  cpu_gemm(exec,
           MatrixProduct<double>{false, true, rest, rest, half, 1.0, below, lda, below, lda, 0.0, update.data(), rest},
           Part::lower);
  exec.pool->parallel_for(core::ceil_div(rest, kBaseOrder), [&](std::int64_t chunk) {
    for (std::int64_t i = chunk * kBaseOrder; i < std::min(rest, (chunk + 1) * kBaseOrder); ++i)
      for (std::int64_t j = 0; j <= i; ++j) corner[i * lda + j] -= update.data()[i * rest + j];
  });
  const std::int64_t minor = cholesky_lower(exec, rest, corner, lda);
  return minor == 0 ? 0 : half + minor;
}

/// out [n, n] = the lower triangle of l, zeros above.
void copy_lower(std::int64_t n, const double* l, std::int64_t ldl, double* out) {
  for (std::int64_t i = 0; i < n; ++i) {
    std::copy_n(l + i * ldl, i + 1, out + i * n);
    std::fill(out + i * n + i + 1, out + (i + 1) * n, 0.0);
  }
}

/// X [n, m] = L X (left) or X [m, n] = X L (right) for L [n, n] lower: halves, so that half of the zeros cost nothing.
void multiply_left(const Exec& exec, std::int64_t n, std::int64_t m, const double* l, std::int64_t ldl, double* x,
                   std::int64_t ldx) {
  if (n <= 4 * kBaseOrder) {
    Scratch<double> triangle(n * n), copy(n * m);
    copy_lower(n, l, ldl, triangle.data());
    for (std::int64_t i = 0; i < n; ++i) std::copy_n(x + i * ldx, m, copy.data() + i * m);
    return gemm(exec, false, false, n, m, n, 1.0, triangle.data(), n, copy.data(), m, 0.0, x, ldx);
  }
  const std::int64_t half = middle(n);
  multiply_left(exec, n - half, m, l + half * ldl + half, ldl, x + half * ldx, ldx);
  gemm(exec, false, false, n - half, m, half, 1.0, l + half * ldl, ldl, x, ldx, 1.0, x + half * ldx, ldx);
  multiply_left(exec, half, m, l, ldl, x, ldx);
}

void multiply_right(const Exec& exec, std::int64_t m, std::int64_t n, const double* l, std::int64_t ldl, double* x,
                    std::int64_t ldx) {
  if (n <= 4 * kBaseOrder) {
    Scratch<double> triangle(n * n), copy(m * n);
    copy_lower(n, l, ldl, triangle.data());
    for (std::int64_t i = 0; i < m; ++i) std::copy_n(x + i * ldx, n, copy.data() + i * n);
    return gemm(exec, false, false, m, n, n, 1.0, copy.data(), n, triangle.data(), n, 0.0, x, ldx);
  }
  const std::int64_t half = middle(n);
  multiply_right(exec, m, half, l, ldl, x, ldx);
  gemm(exec, false, false, m, half, n - half, 1.0, x + half, ldx, l + half * ldl, ldl, 1.0, x, ldx);
  multiply_right(exec, m, n - half, l + half * ldl + half, ldl, x + half, ldx);
}

void invert_halves(const Exec& exec, std::int64_t n, double* l, std::int64_t ldl) {
  if (n <= kBaseOrder) return invert_base(n, l, ldl);
  const std::int64_t half = middle(n), rest = n - half;
  double* below = l + half * ldl;
  invert_halves(exec, half, l, ldl);
  invert_halves(exec, rest, below + half, ldl);
  // L21 becomes -L22^-1 L21 L11^-1.
  multiply_left(exec, rest, half, below + half, ldl, below, ldl);
  multiply_right(exec, rest, half, l, ldl, below, ldl);
  for (std::int64_t i = 0; i < rest; ++i)
    for (std::int64_t j = 0; j < half; ++j) below[i * ldl + j] = -below[i * ldl + j];
}

std::int64_t invert_lower(const Exec& exec, std::int64_t n, double* l, std::int64_t ldl) {
  for (std::int64_t i = 0; i < n; ++i)
    if (l[i * ldl + i] == 0.0) return i + 1;
  invert_halves(exec, n, l, ldl);
  return 0;
}

void diagonal(const Exec&, std::int64_t n, const double* full, double* values) {
  for (std::int64_t i = 0; i < n; ++i) values[i] = full[i * (n + 1)];
}

void packed_diagonal(const Exec&, std::int64_t n, const double* lower, double* values) {
  for (std::int64_t i = 0; i < n; ++i) values[i] = lower[i * (i + 3) / 2];
}

void add(const Exec& exec, std::int64_t n, const double* y, double* x) {
  constexpr std::int64_t kPiece = 1 << 16;
  exec.pool->parallel_for(core::ceil_div(n, kPiece), [&](std::int64_t piece) {
    for (std::int64_t i = piece * kPiece; i < std::min(n, (piece + 1) * kPiece); ++i) x[i] += y[i];
  });
}

void widen(const Exec& exec, std::int64_t n, const float* y, double* x) {
  constexpr std::int64_t kPiece = 1 << 16;
  exec.pool->parallel_for(core::ceil_div(n, kPiece), [&](std::int64_t piece) {
    for (std::int64_t i = piece * kPiece; i < std::min(n, (piece + 1) * kPiece); ++i) x[i] = static_cast<double>(y[i]);
  });
}

}  // namespace

LinalgKernels cpu_linalg_kernels() {
  return {.gemm_f32 = gemm<float>,
          .gemm_f64 = gemm<double>,
          .gemm_16 = cpu_gemm_16,
          .gemm_16_back = cpu_gemm_16_back,
          .gemm_16_outer = cpu_gemm_16_outer,
          .round_16 = cpu_round_16,
          .gram_accumulate = cpu_gram_accumulate_rounded,
          .cholesky_lower_f64 = cholesky_lower,
          .invert_lower_f64 = invert_lower,
          .diagonal_f64 = diagonal,
          .packed_diagonal_f64 = packed_diagonal,
          .add_f64 = add,
          .widen_f64 = widen,
          .gather_rows_f32 = cpu_gather_rows_f32,
          .gather_rows_16 = cpu_gather_rows_16,
          .bounded_rows = cpu_bounded_rows};
}

}  // namespace voronoi::kernels
