// Passes over the rows of a matrix.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/types.h"
#include "kernels/exec.h"
#include "kernels/nn.h"

namespace voronoi::kernels {

/// body(first_row, n_rows) over chunks of about 32,768 values.
template <class Body>
void for_row_chunks(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const Body& body) {
  constexpr std::int64_t kChunkValues = 32768;
  const std::int64_t rows = std::max<std::int64_t>(1, kChunkValues / std::max<std::int64_t>(1, dim));
  exec.pool->parallel_for(core::ceil_div(n_rows, rows),
                          [&](std::int64_t chunk) { body(chunk * rows, std::min(rows, n_rows - chunk * rows)); });
}

// See NnKernels.
void cpu_layer_norm(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                    const float* weight, float eps, float* out, std::int64_t ld_out);
void cpu_copy_heads(const Exec& exec, const HeadParts& parts, const float* x, float* out);
// See NnGradientKernels.
void cpu_layer_norm_gradient(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                             const float* weight, float eps, const float* d_out, std::int64_t ld_out, bool accumulate,
                             float* dx, std::int64_t ld_dx, float* d_weight);
void cpu_sum_heads(const Exec& exec, const HeadParts& parts, const float* x, float* out);

// See LinalgKernels.
void cpu_gather_rows_f32(const Exec& exec, const std::int32_t* ids, std::int64_t n_ids, std::int64_t n, const float* x,
                         float* out);
void cpu_gather_rows_16(const Exec& exec, const std::int32_t* ids, std::int64_t n_ids, std::int64_t n,
                        core::DType dtype, const std::uint16_t* x, float* out);
void cpu_bounded_rows(const Exec& exec, std::int64_t n_rows, std::int64_t n, const float* x, float largest,
                      bool* bounded);

}  // namespace voronoi::kernels
