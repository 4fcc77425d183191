// Matrix products of the CPU backend. Every element is the same chain of fused multiply-adds (over kGemmDepth of k at a
// time) whatever the tiles, the threads and the vector width, and whatever rows stand beside it.
#pragma once

#include <cstdint>

#include "kernels/exec.h"
#include "kernels/matrix_product.h"

namespace voronoi::kernels {

/// Which part of C is wanted: lower skips tiles that lie wholly above the diagonal; the others are written whole.
enum class Part { all, lower };

/// n_threads: how many the work is to be cut for; 0: those of the pool. Within a body of the pool's loops it is 1.
void cpu_gemm(const Exec& exec, const MatrixProduct<float>& product, Part part = Part::all, int n_threads = 0);
void cpu_gemm(const Exec& exec, const MatrixProduct<double>& product, Part part = Part::all, int n_threads = 0);

/// LinalgKernels::gram_accumulate in fp32.
void cpu_gram_accumulate(const Exec& exec, std::int64_t n_rows, std::int64_t n, const float* x, std::int64_t ldx,
                         double* sum);

}  // namespace voronoi::kernels
