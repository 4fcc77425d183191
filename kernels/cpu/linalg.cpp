// OpenBLAS on one thread a tile; tiles of fixed size are dealt to the pool, so that the bits do not depend on its size.
#include <cblas.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "core/types.h"
#include "kernels/kernels.h"

// LAPACK's Fortran symbols: no LAPACKE package is needed.
extern "C" {
void dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info);
void dtrtri_(const char* uplo, const char* diag, const int* n, double* a, const int* lda, int* info);
}

namespace voronoi::kernels {
namespace {

constexpr std::int64_t kTileRows = 512;
constexpr std::int64_t kTileColumns = 512;
constexpr std::int64_t kGramTile = 384;
constexpr std::int64_t kGramRows = 2048;
constexpr std::int64_t kFactorBlock = 256;

int narrow(std::int64_t value) {
  VORONOI_REQUIRE(value >= 0 && value <= 0x7FFFFFFF, "a BLAS extent must fit 32 bits");
  return static_cast<int>(value);
}

void one_blas_thread() {
  static std::once_flag once;
  std::call_once(once, [] { openblas_set_num_threads(1); });
}

CBLAS_TRANSPOSE op(bool transpose) { return transpose ? CblasTrans : CblasNoTrans; }

void gemm(bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const float* a, std::int64_t lda, const float* b,
          std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  cblas_sgemm(CblasRowMajor, op(ta), op(tb), narrow(m), narrow(n), narrow(k), alpha, a, narrow(lda), b, narrow(ldb), beta, c,
              narrow(ldc));
}

void gemm(bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const double* a, std::int64_t lda,
          const double* b, std::int64_t ldb, double beta, double* c, std::int64_t ldc) {
  cblas_dgemm(CblasRowMajor, op(ta), op(tb), narrow(m), narrow(n), narrow(k), alpha, a, narrow(lda), b, narrow(ldb), beta, c,
              narrow(ldc));
}

template <class T>
void tiled_gemm(const Exec& exec, bool ta, bool tb, std::int64_t m, std::int64_t n, std::int64_t k, T alpha, const T* a,
                std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc) {
  if (m == 0 || n == 0) return;
  one_blas_thread();
  const std::int64_t tiles_m = core::ceil_div(m, kTileRows), tiles_n = core::ceil_div(n, kTileColumns);
  exec.pool->parallel_for(tiles_m * tiles_n, [&](std::int64_t tile) {
    const std::int64_t i = tile / tiles_n * kTileRows, j = tile % tiles_n * kTileColumns;
    gemm(ta, tb, std::min(kTileRows, m - i), std::min(kTileColumns, n - j), k, alpha, ta ? a + i : a + i * lda, lda,
         tb ? b + j * ldb : b + j, ldb, beta, c + i * ldc + j, ldc);
  });
}

void gram_accumulate(const Exec& exec, std::int64_t n_rows, std::int64_t n, const float* x, std::int64_t ldx, double* sum) {
  one_blas_thread();
  const std::int64_t tiles = core::ceil_div(n, kGramTile);
  exec.pool->parallel_for(tiles * (tiles + 1) / 2, [&](std::int64_t index) {
    std::int64_t tile_i = 0;
    while ((tile_i + 1) * (tile_i + 2) / 2 <= index) ++tile_i;
    const std::int64_t tile_j = index - tile_i * (tile_i + 1) / 2;
    const std::int64_t i = tile_i * kGramTile, j = tile_j * kGramTile;
    const std::int64_t rows = std::min(kGramTile, n - i), columns = std::min(kGramTile, n - j);
    std::vector<float> product(static_cast<std::size_t>(rows * columns));
    for (std::int64_t r = 0; r < n_rows; r += kGramRows) {
      gemm(true, false, rows, columns, std::min(kGramRows, n_rows - r), 1.0F, x + r * ldx + i, ldx, x + r * ldx + j, ldx, 0.0F,
           product.data(), columns);
      for (std::int64_t p = 0; p < rows; ++p) {
        const std::int64_t last = tile_i == tile_j ? p + 1 : columns;
        double* target = sum + (i + p) * n + j;
        const float* source = product.data() + p * columns;
        for (std::int64_t q = 0; q < last; ++q) target[q] += static_cast<double>(source[q]);
      }
    }
  });
}

/// Blocked right-looking factorization; the trailing update is the tiled gemm.
std::int64_t cholesky_lower(const Exec& exec, std::int64_t n, double* a, std::int64_t lda) {
  one_blas_thread();
  for (std::int64_t s = 0; s < n; s += kFactorBlock) {
    const std::int64_t size = std::min(kFactorBlock, n - s), rest = n - s - size;
    double* diagonal = a + s * lda + s;
    const int order = narrow(size), ld = narrow(lda);
    int info = 0;
    // Row-major lower is column-major upper: A = L L^T = (L^T)^T (L^T).
    dpotrf_("U", &order, diagonal, &ld, &info);
    if (info != 0) return s + info;
    if (rest == 0) break;
    double* below = diagonal + size * lda;
    exec.pool->parallel_for(core::ceil_div(rest, kTileRows), [&](std::int64_t tile) {
      const std::int64_t i = tile * kTileRows;
      cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, narrow(std::min(kTileRows, rest - i)), order, 1.0,
                  diagonal, ld, below + i * lda, ld);
    });
    const std::int64_t tiles = core::ceil_div(rest, kTileRows);
    exec.pool->parallel_for(tiles * (tiles + 1) / 2, [&](std::int64_t index) {
      std::int64_t tile_i = 0;
      while ((tile_i + 1) * (tile_i + 2) / 2 <= index) ++tile_i;
      const std::int64_t i = tile_i * kTileRows, j = (index - tile_i * (tile_i + 1) / 2) * kTileRows;
      gemm(false, true, std::min(kTileRows, rest - i), std::min(kTileRows, rest - j), size, -1.0, below + i * lda, lda,
           below + j * lda, lda, 1.0, diagonal + (size + i) * lda + size + j, lda);
    });
  }
  return 0;
}

/// Blocked inverse of L, block row by block row: with X the inverse of the leading part,
/// row block s becomes -L_ss^-1 * (L_s,0..s * X), and the diagonal block L_ss^-1.
std::int64_t invert_lower(const Exec& exec, std::int64_t n, double* l, std::int64_t ldl) {
  one_blas_thread();
  for (std::int64_t i = 0; i < n; ++i)
    if (l[i * ldl + i] == 0.0) return i + 1;
  std::vector<double> product;
  for (std::int64_t s = 0; s < n; s += kFactorBlock) {
    const std::int64_t size = std::min(kFactorBlock, n - s);
    double* diagonal = l + s * ldl + s;
    double* left = l + s * ldl;
    const int order = narrow(size), ld = narrow(ldl);
    if (s > 0) {
      // The leading inverse is lower triangular: for columns from j on, only its rows from j on matter.
      product.assign(static_cast<std::size_t>(size * s), 0.0);
      exec.pool->parallel_for(core::ceil_div(s, kFactorBlock), [&](std::int64_t tile) {
        const std::int64_t j = tile * kFactorBlock, columns = std::min(kFactorBlock, s - j);
        std::vector<double> triangle(static_cast<std::size_t>((s - j) * columns));
        for (std::int64_t r = j; r < s; ++r)
          for (std::int64_t c = 0; c < columns; ++c)
            triangle[static_cast<std::size_t>((r - j) * columns + c)] = j + c <= r ? l[r * ldl + j + c] : 0.0;
        gemm(false, false, size, columns, s - j, -1.0, left + j, ldl, triangle.data(), columns, 0.0, product.data() + j, s);
        cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, order, narrow(columns), 1.0, diagonal, ld,
                    product.data() + j, narrow(s));
      });
      for (std::int64_t r = 0; r < size; ++r) std::copy_n(product.data() + r * s, s, left + r * ldl);
    }
    int info = 0;
    dtrtri_("U", "N", &order, diagonal, &ld, &info);
    if (info != 0) return s + info;
  }
  return 0;
}

}  // namespace

LinalgKernels cpu_linalg_kernels() {
  return {tiled_gemm<float>, tiled_gemm<double>, gram_accumulate, cholesky_lower, invert_lower};
}

}  // namespace voronoi::kernels
