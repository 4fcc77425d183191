// The first of candidates, by value and place.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/intrinsics.cuh"

namespace voronoi::kernels::gpu {

/// What decides between experts or tokens: the larger logit, then the lower number. A NaN comes after all others, so
/// that the choice stays one of distinct experts.
struct Candidate {
  float value;
  std::int32_t place;
};

__device__ __forceinline__ float ordered(float logit) { return logit == logit ? logit : -INFINITY; }

__device__ __forceinline__ bool before(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.place < b.place);
}

/// The first of all lanes' candidates, to every lane.
__device__ __forceinline__ Candidate first_of_warp(Candidate best) {
  for (int step = 16; step > 0; step /= 2) {
    const Candidate other{shuffle_xor(best.value, step), shuffle_xor(best.place, step)};
    if (before(other, best)) best = other;
  }
  return best;
}

}  // namespace voronoi::kernels::gpu
