// Compiled once for each vector width. Inner loops run over independent elements and products are not contracted
// (-ffp-contract=off), so that the compiler's vectors change no bit.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/triangular.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/triangular.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {
namespace {

constexpr std::int64_t kRows = 32;

std::int64_t cholesky(std::int64_t n, double* a, std::int64_t lda) {
  double column[kTriangularOrder];
  for (std::int64_t p = 0; p < n; ++p) {
    const double square = a[p * lda + p];
    if (!(square > 0.0) || !std::isfinite(square)) return p + 1;
    const double pivot = std::sqrt(square);
    a[p * lda + p] = pivot;
    for (std::int64_t i = p + 1; i < n; ++i) column[i] = a[i * lda + p] /= pivot;
    for (std::int64_t i = p + 1; i < n; ++i) {
      double* HWY_RESTRICT row = a + i * lda;
      const double factor = column[i];
      for (std::int64_t j = p + 1; j <= i; ++j) row[j] -= factor * column[j];
    }
  }
  return 0;
}

void solve_rows(std::int64_t n_rows, std::int64_t n, const double* l, std::int64_t ldl, double* x, std::int64_t ldx) {
  // Rows side by side: the elements of a column are independent.
  alignas(64) double turned[kTriangularOrder][kRows] = {};
  for (std::int64_t r = 0; r < n_rows; ++r)
    for (std::int64_t c = 0; c < n; ++c) turned[c][r] = x[r * ldx + c];
  for (std::int64_t c = 0; c < n; ++c) {
    alignas(64) double column[kRows];
    std::copy_n(turned[c], kRows, column);
    for (std::int64_t p = 0; p < c; ++p)
      for (std::int64_t r = 0; r < kRows; ++r) column[r] -= turned[p][r] * l[c * ldl + p];
    for (std::int64_t r = 0; r < kRows; ++r) turned[c][r] = column[r] / l[c * ldl + c];
  }
  for (std::int64_t r = 0; r < n_rows; ++r)
    for (std::int64_t c = 0; c < n; ++c) x[r * ldx + c] = turned[c][r];
}

void invert(std::int64_t n, double* l, std::int64_t ldl) {
  // Row by row: with X the inverse of the leading part, row i becomes -(l_i X) / l_ii, then 1 / l_ii.
  double row[kTriangularOrder];
  for (std::int64_t i = 0; i < n; ++i) {
    std::fill_n(row, i, 0.0);
    for (std::int64_t p = 0; p < i; ++p) {
      const double factor = l[i * ldl + p];
      for (std::int64_t j = 0; j <= p; ++j) row[j] += factor * l[p * ldl + j];
    }
    const double inverse = 1.0 / l[i * ldl + i];
    for (std::int64_t j = 0; j < i; ++j) l[i * ldl + j] = -row[j] * inverse;
    l[i * ldl + i] = inverse;
  }
}

}  // namespace
}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {

HWY_EXPORT(cholesky);
HWY_EXPORT(solve_rows);
HWY_EXPORT(invert);

std::int64_t cholesky_base(std::int64_t n, double* a, std::int64_t lda) {
  return HWY_DYNAMIC_DISPATCH(cholesky)(n, a, lda);
}
void solve_rows_base(std::int64_t n_rows, std::int64_t n, const double* l, std::int64_t ldl, double* x,
                     std::int64_t ldx) {
  HWY_DYNAMIC_DISPATCH(solve_rows)(n_rows, n, l, ldl, x, ldx);
}
void invert_base(std::int64_t n, double* l, std::int64_t ldl) { HWY_DYNAMIC_DISPATCH(invert)(n, l, ldl); }

}  // namespace voronoi::kernels
#endif
