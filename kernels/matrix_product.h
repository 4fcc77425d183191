// One matrix product as the backends take it.
#pragma once

#include <cstdint>

namespace voronoi::kernels {

/// C [m, n] = alpha * op(A) op(B) + beta * C, row-major; beta == 0 ignores C's content.
template <class T>
struct MatrixProduct {
  bool transpose_a, transpose_b;
  std::int64_t m, n, k;
  T alpha;
  const T* a;
  std::int64_t lda;
  const T* b;
  std::int64_t ldb;
  T beta;
  T* c;
  std::int64_t ldc;
};

}  // namespace voronoi::kernels
