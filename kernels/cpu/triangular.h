// Plain loops over small triangles, the ends of the recursions in linalg.cpp. Row-major, fp64, order at most
// kTriangularOrder.
#pragma once

#include <cstdint>

namespace voronoi::kernels {

inline constexpr std::int64_t kTriangularOrder = 64;

/// A [n, n] -> L in place (the part above the diagonal is not touched). 0, or the 1-based minor that is not positive
/// definite.
std::int64_t cholesky_base(std::int64_t n, double* a, std::int64_t lda);
/// X [n_rows, n] = X L^-T for L lower, n_rows <= 32.
void solve_rows_base(std::int64_t n_rows, std::int64_t n, const double* l, std::int64_t ldl, double* x,
                     std::int64_t ldx);
/// L -> L^-1 in place.
void invert_base(std::int64_t n, double* l, std::int64_t ldl);

}  // namespace voronoi::kernels
