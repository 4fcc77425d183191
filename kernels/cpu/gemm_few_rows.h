// Products of a token or a few with the matrix of a linear.
#pragma once

#include <cstdint>

#include "kernels/exec.h"
#include "kernels/matrix_product.h"

namespace voronoi::kernels {

/// Rows of A up to which reading B once decides how long a product takes.
inline constexpr std::int64_t kFewRows = 4;

/// C = alpha A B^T + beta C for A [m, k], m <= kFewRows, and B stored [n, k], each row once and in place, with the bits
/// of cpu_gemm (kernels/cpu/gemm.h). Writes the first columns of C and returns how many: what is left is too narrow.
std::int64_t cpu_gemm_few_rows(const Exec& exec, const MatrixProduct<float>& product, int n_threads);

}  // namespace voronoi::kernels
