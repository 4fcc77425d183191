// What the kernels of the nn family share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/types.h"
#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/native.h"
#include "kernels/nn.h"

namespace voronoi::kernels::gpu {

// Every thread block of this family; more blocks than this walk on in a loop.
constexpr int kNnThreads = 256;
constexpr std::int64_t kNnBlocks = 1 << 20;

inline dim3 nn_grid(std::int64_t blocks) { return grid_of(std::min(blocks, kNnBlocks)); }

inline bool aligned_16(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % 16 == 0; }

/// Of clamped_swiglu's sigmoid.
constexpr float kClampedSlope = 1.702F;

__device__ __forceinline__ float sigmoid_of(float x) { return 1.0F / (1.0F + expf(-x)); }

/// Where a pair of a rotary embedding lies; a column is a pair (head, i).
struct RopePlace {
  std::int64_t n_tokens, half, head_dim;
  bool interleaved;
  __device__ std::int64_t turn(std::int64_t row, std::int64_t column) const {
    return row % n_tokens * (2 * half) + column % half;
  }
  __device__ std::int64_t low(std::int64_t column) const {
    return column / half * head_dim + (interleaved ? 2 : 1) * (column % half);
  }
  __device__ std::int64_t apart() const { return interleaved ? 1 : half; }
};

inline RopePlace place_of(const RopeShape& shape) {
  return {shape.n_tokens, shape.n_turned / 2, shape.head_dim, shape.interleaved};
}

/// Of a row: 1 / sqrt(variance + eps) beside its mean.
struct RowMoments {
  float mean, scale;
};

/// By the whole block.
__device__ __forceinline__ RowMoments row_moments(std::int64_t dim, const float* x, float eps, float* shared) {
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i < dim; i += kNnThreads) sum += x[i];
  const float mean = block_sum(sum, shared) / static_cast<float>(dim);
  float squares = 0;
  for (std::int64_t i = threadIdx.x; i < dim; i += kNnThreads) squares = fmaf(x[i] - mean, x[i] - mean, squares);
  return {mean, 1.0F / sqrtf(block_sum(squares, shared) / static_cast<float>(dim) + eps)};
}

/// What the block reduces a row in.
struct RowReduction {
  float maxima[kNnThreads / kWarpSize];
  double sums[kWarpSize];
};

/// log(sum of exp) of a row of logits, and the largest of them.
struct LogSumExp {
  float largest;
  double value;
};

/// By the whole block. Thread t sums the exponentials of columns t, t + kNnThreads, ... in that order, then block_sum:
/// the same bits at any grid. About 40 fp64 operations a logit, on hardware with half the fp32 rate or better.
__device__ __forceinline__ LogSumExp log_sum_exp(std::int64_t vocab, const float* values, RowReduction& shared) {
  float largest = values[0];
  for (std::int64_t i = threadIdx.x; i < vocab; i += kNnThreads) largest = fmaxf(largest, values[i]);
  for (int step = kWarpSize / 2; step > 0; step /= 2) largest = fmaxf(largest, shuffle_xor(largest, step));
  if (lane_id() == 0) shared.maxima[warp_id()] = largest;
  sync_threads();
  for (const float maximum : shared.maxima) largest = fmaxf(largest, maximum);
  sync_threads();
  const auto shift = static_cast<double>(largest);
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < vocab; i += kNnThreads) sum += exp(static_cast<double>(values[i]) - shift);
  return {largest, log(block_sum(sum, shared.sums)) + shift};
}

void attention(const Exec& exec, const AttentionShape& shape, const float* q, const float* k, const float* v,
               float* out);
void cached_attention(const Exec& exec, const AttentionShape& shape, std::int64_t n_past, const float* q,
                      const float* k, const float* v, float* out);
void nll(const Exec& exec, std::int64_t n_rows, std::int64_t vocab, const float* logits, std::int64_t ld,
         const std::int32_t* target, double* nll);
void argmax(const Exec& exec, std::int64_t n_rows, std::int64_t vocab, const float* logits, std::int64_t ld,
            std::int32_t* place);
void route(const Exec& exec, const RouteShape& shape, const float* logits, const float* bias, std::int32_t* expert,
           float* weight);
void layer_norm(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                const float* weight, float eps, float* out, std::int64_t ld_out);
void rms_norm(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
              const float* weight, float eps, float* out, std::int64_t ld_out);

}  // namespace voronoi::kernels::gpu
