// Attention of a few new tokens over the cache: a block a token and head, a warp a share of the keys, lanes over the
// head's dimensions. Bound by reading keys and values once a query head: 8 bytes a key and dimension, shared in L2 by
// the query heads of a key head.
#include <cmath>

#include "core/error.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/native.h"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kWarps = 8;
constexpr int kLaneDims = 8;  // of a head of at most 256

__device__ __forceinline__ float rounded(core::DType dtype, float value) {
  if (dtype == core::DType::bf16) return bf16_to_float(float_to_bf16(value));
  if (dtype == core::DType::f16) return f16_to_float(float_to_f16(value));
  return value;
}

__global__ void __launch_bounds__(kWarps* kWarpSize)
    cached_attention_kernel(AttentionShape shape, std::int64_t n_past, const float* q, const float* k, const float* v,
                            float* out) {
  __shared__ float shared_largest[kWarps], shared_total[kWarps], shared_sums[kWarps][kLaneDims * kWarpSize];
  const std::int64_t head = blockIdx.x, token = blockIdx.y, kv = head / (shape.n_heads / shape.n_kv_heads);
  const int dim = static_cast<int>(shape.head_dim), lane = lane_id(), warp = warp_id();
  const std::int64_t last = n_past + token;
  const std::int64_t first = shape.window > 0 && last + 1 > shape.window ? last + 1 - shape.window : 0;
  float query[kLaneDims], sums[kLaneDims] = {};
#pragma unroll
  for (int i = 0; i < kLaneDims; ++i) {
    const int d = i * kWarpSize + lane;
    query[i] = d < dim ? rounded(shape.compute, q[token * shape.ld_q + head * dim + d]) : 0.0F;
  }
  float largest = -INFINITY, total = 0;
  for (std::int64_t key = first + warp; key <= last; key += kWarps) {
    const std::int64_t row = key * shape.ld_kv + kv * dim;
    float score = 0;
#pragma unroll
    for (int i = 0; i < kLaneDims; ++i) {
      const int d = i * kWarpSize + lane;
      if (d < dim) score = fmaf(query[i], rounded(shape.compute, k[row + d]), score);
    }
    score = capped(shape, warp_sum(score) * shape.scale);
    const float highest = fmaxf(largest, score);
    const float kept = expf(largest - highest), share = expf(score - highest);  // the first time: kept is 0
    largest = highest;
    total = fmaf(total, kept, share);
#pragma unroll
    for (int i = 0; i < kLaneDims; ++i) {
      const int d = i * kWarpSize + lane;
      if (d < dim) sums[i] = fmaf(share, rounded(shape.compute, v[row + d]), sums[i] * kept);
    }
  }
  if (lane == 0) {
    shared_largest[warp] = largest;
    shared_total[warp] = total;
  }
#pragma unroll
  for (int i = 0; i < kLaneDims; ++i) shared_sums[warp][i * kWarpSize + lane] = sums[i];
  sync_threads();
  float highest = shared_largest[0];
  for (int w = 1; w < kWarps; ++w) highest = fmaxf(highest, shared_largest[w]);
  if (shape.sinks != nullptr) highest = fmaxf(highest, shape.sinks[head]);
  float whole = shape.sinks == nullptr ? 0.0F : expf(shape.sinks[head] - highest);
  for (int w = 0; w < kWarps; ++w) whole = fmaf(shared_total[w], expf(shared_largest[w] - highest), whole);
  for (int d = static_cast<int>(threadIdx.x); d < dim; d += kWarps * kWarpSize) {
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum = fmaf(shared_sums[w][d], expf(shared_largest[w] - highest), sum);
    out[token * shape.ld_out + head * dim + d] = sum / whole;
  }
}

}  // namespace

void cached_attention(const Exec& exec, const AttentionShape& shape, std::int64_t n_past, const float* q,
                      const float* k, const float* v, float* out) {
  VORONOI_REQUIRE(shape.n_sequences == 1 && n_past >= 0, "cached attention is of one sequence");
  VORONOI_REQUIRE(shape.head_dim <= kLaneDims * kWarpSize, "heads of more than 256 dimensions are not supported");
  launch(native(exec), cached_attention_kernel, grid_of(shape.n_heads, shape.n_tokens), dim3(kWarps * kWarpSize), 0,
         shape, n_past, q, k, v, out);
}

}  // namespace voronoi::kernels::gpu
