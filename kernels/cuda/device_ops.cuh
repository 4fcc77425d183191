// What device code shares: places of threads, reductions in a fixed order. The module is compiled without contraction
// (-fmad=false), as the CPU twins are: a * b + c rounds twice; write fmaf(a, b, c) where one rounding is wanted.
#pragma once

#include <cstdint>

#include "kernels/cuda/intrinsics.cuh"

namespace voronoi::kernels::gpu {

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x % kWarpSize); }
/// Warp of a one-dimensional block.
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x / kWarpSize); }
/// Index over a one-dimensional grid of one-dimensional blocks, and how many threads there are.
__device__ __forceinline__ std::int64_t global_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ std::int64_t global_threads() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }

// Reductions over a warp by xor butterflies: every lane gets the same bits. All 32 lanes take part.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
template <class T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    const T other = shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}
template <class T>
__device__ __forceinline__ T warp_min(T value) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    const T other = shuffle_xor(value, mask);
    value = other < value ? other : value;
  }
  return value;
}
/// The least value and its index; of equal values the lowest index.
template <class T>
__device__ __forceinline__ void warp_min_with_index(T& value, std::int32_t& index) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    const T other = shuffle_xor(value, mask);
    const std::int32_t other_index = shuffle_xor(index, mask);
    if (other < value || (other == value && other_index < index)) {
      value = other;
      index = other_index;
    }
  }
}

/// Sum over a one-dimensional block of whole warps (at most 32), the same bits in every thread. `partial`: 32 values of
/// shared memory that nothing else uses meanwhile.
template <class T>
__device__ __forceinline__ T block_sum(T value, T* partial) {
  value = warp_sum(value);
  if (lane_id() == 0) partial[warp_id()] = value;
  sync_threads();
  const int n_warps = static_cast<int>(blockDim.x / kWarpSize);
  T total = lane_id() < n_warps ? partial[lane_id()] : T{};
  total = warp_sum(total);
  sync_threads();
  return total;
}

}  // namespace voronoi::kernels::gpu
