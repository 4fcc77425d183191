// Entry points of linalg.h on operands rounded to 16 bits.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/exec.h"

namespace voronoi::kernels {

/// See LinalgKernels::gemm_16.
void cpu_gemm_16(const Exec& exec, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda,
                 core::DType dtype, const std::uint16_t* w, std::int64_t ldw, float beta, float* c, std::int64_t ldc);
/// See LinalgKernels::gemm_16_back.
void cpu_gemm_16_back(const Exec& exec, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
                      std::int64_t lda, core::DType dtype, const std::uint16_t* w, std::int64_t ldw, float beta,
                      float* c, std::int64_t ldc);
/// See LinalgKernels::gemm_16_outer.
void cpu_gemm_16_outer(const Exec& exec, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
                       std::int64_t lda, const float* b, std::int64_t ldb, core::DType dtype, float* c,
                       std::int64_t ldc);
/// See LinalgKernels::round_16.
void cpu_round_16(const Exec& exec, std::int64_t n, const float* x, core::DType dtype, std::uint16_t* bits);
/// See LinalgKernels::gram_accumulate.
void cpu_gram_accumulate_rounded(const Exec& exec, std::int64_t n_rows, std::int64_t n, const float* x,
                                 std::int64_t ldx, core::DType dtype, double* sum);

}  // namespace voronoi::kernels
