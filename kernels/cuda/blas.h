// The vendor's dense linear algebra behind linalg.h: cuBLAS and cuSOLVER on the compute stream of a Native. All
// matrices row-major in device memory; the emulator of the tests defines the same class over the CPU kernels.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/cuda/native.h"
#include "kernels/matrix_product.h"

namespace voronoi::kernels::gpu {

class Blas {
 public:
  explicit Blas(Native& native);
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  /// m, n, k > 0, here and below; fp32 products and sums.
  void gemm(const MatrixProduct<float>& product);
  void gemm(const MatrixProduct<double>& product);
  /// On operands that are tf32 already: exact products, summed in fp32 on the tensor cores.
  void gemm_tf32(const MatrixProduct<float>& product);
  /// A and B in 16 bits (f16 or bf16), alpha = 1: exact products, summed in fp32 on the tensor cores.
  void gemm_16(core::DType dtype, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
               const std::uint16_t* a, std::int64_t lda, const std::uint16_t* b, std::int64_t ldb, float beta, float* c,
               std::int64_t ldc);
  /// A -> L, lower; the info code of LAPACK (0, or the minor that is not positive definite).
  std::int64_t cholesky_lower(std::int64_t n, double* a, std::int64_t lda);
  /// L -> L^-1; the info code of LAPACK (0, or the index of a zero on the diagonal).
  std::int64_t invert_lower(std::int64_t n, double* l, std::int64_t ldl);

 private:
  struct Handles;
  std::unique_ptr<Handles> handles_;
};

}  // namespace voronoi::kernels::gpu
