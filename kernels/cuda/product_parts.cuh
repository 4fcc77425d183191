// What products with packed weights share that divide columns over splits: a warp has sums of a few rows and tokens,
// each split has partial results, and these are added in order.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/native.h"

namespace voronoi::kernels::gpu {

/// target [n_tokens, out_features], from row first_row on: the warp's sums of its lanes.
template <int kRows, int kTokens>
__device__ __forceinline__ void store_row_sums(const float (&sums)[kRows][kTokens], std::int64_t first_row,
                                               int n_tokens, std::int64_t out_features, float* target) {
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float total = warp_sum(sums[r][t]);
      if (lane_id() == (r * kTokens + t) % kWarpSize && t < n_tokens && first_row + r < out_features)
        target[t * out_features + first_row + r] = total;
    }
}

template <class Value>
__global__ void add_product_parts_kernel(std::int64_t n, std::int64_t n_parts, const Value* partials, bool accumulate,
                                         Value* out) {
  for (std::int64_t i = global_thread(); i < n; i += global_threads()) {
    Value sum = 0;
    for (std::int64_t part = 0; part < n_parts; ++part) sum += partials[part * n + i];
    out[i] = accumulate ? out[i] + sum : sum;
  }
}

/// out [n] = the parts [n_parts, n], one after another (+ out when accumulate).
inline void add_product_parts(Native& gpu, std::int64_t n, std::int64_t n_parts, const float* partials, bool accumulate,
                              float* out) {
  constexpr int kThreads = 256;
  launch(gpu, add_product_parts_kernel<float>, grid_for(gpu, n, kThreads), dim3(kThreads), 0, n, n_parts, partials,
         accumulate, out);
}

}  // namespace voronoi::kernels::gpu
