// One matrix product as the backends take it.
#pragma once

#include <cstdint>

namespace voronoi::kernels {

/// An fp32 or fp64 product whose bits do not depend on its tiles: each element is one chain of fused multiply-adds over
/// this many of k, the chains added to C in order.
inline constexpr std::int64_t kGemmDepth = 256;

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
