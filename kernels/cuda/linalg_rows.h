// Entry points of linalg.h over the rows of a matrix.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/exec.h"

namespace voronoi::kernels::gpu {

// See LinalgKernels.
void gather_rows_f32(const Exec& exec, const std::int32_t* ids, std::int64_t n_ids, std::int64_t n, const float* x,
                     float* out);
void gather_rows_16(const Exec& exec, const std::int32_t* ids, std::int64_t n_ids, std::int64_t n, core::DType dtype,
                    const std::uint16_t* x, float* out);
void bounded_rows(const Exec& exec, std::int64_t n_rows, std::int64_t n, const float* x, float largest, bool* bounded);

}  // namespace voronoi::kernels::gpu
