// Entry points of linalg.h over triangles and diagonals.
#pragma once

#include <cstdint>

#include "kernels/exec.h"

namespace voronoi::kernels::gpu {

// See LinalgKernels.
void diagonal_f64(const Exec& exec, std::int64_t n, const double* full, double* diagonal);
void packed_diagonal_f64(const Exec& exec, std::int64_t n, const double* lower, double* diagonal);
void add_f64(const Exec& exec, std::int64_t n, const double* y, double* x);
void widen_f64(const Exec& exec, std::int64_t n, const float* y, double* x);

}  // namespace voronoi::kernels::gpu
