// Nearest centroids on tensor cores, with the CPU twin's choice to the bit.
//
// The score |c|^2 / 2 - x.c of points by centroids is one product on tf32 operands that starts from the half norms. Of
// each group of 128 centroids a lane keeps, for each of its points, the lowest score of its 32 columns (the columns 2t,
// 2t + 1 of every 8, t = lane % 4); the group's number goes into the lowest bits of that score's fraction, so that one
// comparison sorts score and group alike. The lowest kKept of these stay in registers. What may hold the answer in
// spite of the rounding (score_error) is then looked at again in fp32, in the arithmetic of the CPU twin: start from
// the rounded half norm, one fused multiply-add a component in rising order, ties to the lowest index. Where the last
// kept score of a lane lies within the error as well, others may have been dropped: such points are searched exactly
// over all centroids.
//
// A score costs 1 / 32 of a product of m16n8k8 a step and one minimum, and the minimum bounds: half a lane's worth of
// an instruction a cycle, 64 scores a cycle and multiprocessor.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/vq_book.h"

namespace voronoi::kernels::gpu {

/// The lowest scores of P tiles of 16 points over some groups: slot 2p + h of lane 4g + t is point g + 8h of tile p.
template <int P, int kKept>
struct Lowest {
  float kept[2 * P][kKept];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int slot = 0; slot < 2 * P; ++slot)
#pragma unroll
      for (int i = 0; i < kKept; ++i) kept[slot][i] = INFINITY;
  }
  __device__ __forceinline__ void offer(const float (&low)[2 * P], std::uint32_t group, std::uint32_t id_mask) {
#pragma unroll
    for (int slot = 0; slot < 2 * P; ++slot) {
      const float value = bits_float((float_bits(low[slot]) & ~id_mask) | group);
#pragma unroll
      for (int i = kKept - 1; i > 0; --i) kept[slot][i] = fminf(kept[slot][i], fmaxf(kept[slot][i - 1], value));
      kept[slot][0] = fminf(kept[slot][0], value);
    }
  }
};

/// The lowest scores of one group, in shared or global memory.
template <int kSteps, int P, Halves kHalves>
__device__ __forceinline__ void scan_group(const float* group, const std::uint32_t (&a)[P][kSteps][4],
                                           float (&low)[2 * P]) {
  const int lane = lane_id();
#pragma unroll
  for (int slot = 0; slot < 2 * P; ++slot) low[slot] = INFINITY;
#pragma unroll(kSteps == 1 ? 2 : 1)
  for (int pair = 0; pair < kGroupPairs; ++pair) {
    const float* at = group + pair * pair_floats(kSteps, kHalves);
    float4 b[kSteps];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) b[step] = *reinterpret_cast<const float4*>(at + step * 128 + lane * 4);
    const auto* halves = reinterpret_cast<const float4*>(at + kSteps * 128) + lane % 4;
    float4 left_half = halves[0], right_half;
    if constexpr (kHalves == Halves::ready) {
      right_half = halves[4];
    } else {
      right_half = make_float4(left_half.z, left_half.w, left_half.z, left_half.w);
      left_half = make_float4(left_half.x, left_half.y, left_half.x, left_half.y);
    }
    const float from_left[4] = {left_half.x, left_half.y, left_half.z, left_half.w};
    const float from_right[4] = {right_half.x, right_half.y, right_half.z, right_half.w};
#pragma unroll
    for (int p = 0; p < P; ++p) {
      float d[4], e[4];
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const std::uint32_t left[2] = {float_bits(b[step].x), float_bits(b[step].y)};
        const std::uint32_t right[2] = {float_bits(b[step].z), float_bits(b[step].w)};
        if (step == 0) {
          mma_m16n8k8_tf32(d, a[p][step], left, from_left);
          mma_m16n8k8_tf32(e, a[p][step], right, from_right);
        } else {
          mma_m16n8k8_tf32(d, a[p][step], left);
          mma_m16n8k8_tf32(e, a[p][step], right);
        }
      }
      low[2 * p] = fminf(fminf(fminf(low[2 * p], d[0]), d[1]), fminf(e[0], e[1]));
      low[2 * p + 1] = fminf(fminf(fminf(low[2 * p + 1], d[2]), d[3]), fminf(e[2], e[3]));
    }
  }
}

/// A operand of 16 points: -x rounded to tf32. component(i, d): component d of point i, 0 where there is none.
template <int kSteps, class Component>
__device__ __forceinline__ void load_points(std::uint32_t (&a)[kSteps][4], const Component& component) {
  const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
  for (int step = 0; step < kSteps; ++step)
#pragma unroll
    for (int i = 0; i < 4; ++i) a[step][i] = to_tf32(-component(g + i % 2 * 8, step * 8 + t + i / 2 * 4));
}

/// How far a kept score may lie from the CPU twin's, for points and centroids of these norms and scores up to `score`:
/// 2^-10 |x| |c| for two operands rounded to 11 bits; (components + 8) 2^-22 of every term for sums that may be cut
/// off, which covers the CPU twin's own roundings; 2^(bits - 22) for the group's number in the fraction. A score that
/// matters is at least -|x|^2 / 2 and its half norm at most the score + |x| |c|.
__device__ __forceinline__ float score_error(const Book& book, int steps, float norm2, float score) {
  const float product = sqrtf(norm2) * *book.largest * (1.0F + 0x1p-16F),
              sums = static_cast<float>(steps + 1) * 0x1p-19F;
  const float number = static_cast<float>(1 << book.id_bits) * 0x1p-22F;
  const float size = fmaxf(fabsf(score), 0.5F * norm2) * (1.0F + 0x1p-16F);
  return product * (0x1.04p-10F + 3 * sums) + (number + sums) * (size + product * 0x1p-9F) + 1e-30F;
}

template <int kSteps>
struct Point {
  float x[8 * kSteps];
};

/// The CPU twin's score of a centroid; tail: half norm over the tail's components.
template <int kSteps>
__device__ __forceinline__ float exact_score(const float* row, const Point<kSteps>& point, bool tail) {
  float c[8 * kSteps];
#pragma unroll
  for (int i = 0; i < 2 * kSteps; ++i) {
    const float4 part = *reinterpret_cast<const float4*>(row + 4 * i);
    c[4 * i] = part.x;
    c[4 * i + 1] = part.y;
    c[4 * i + 2] = part.z;
    c[4 * i + 3] = part.w;
  }
  float score = row[8 * kSteps + (tail ? 1 : 0)];
#pragma unroll
  for (int d = 0; d < 8 * kSteps; ++d) score = fmaf(-point.x[d], c[d], score);
  return score;
}

/// The CPU twin's sum of (x - c)^2 over the first `dim` components.
template <int kSteps>
__device__ __forceinline__ float squared_distance(const float* row, const Point<kSteps>& point, int dim) {
  float sum = 0;
#pragma unroll
  for (int d = 0; d < 8 * kSteps; ++d) {
    const float gap = point.x[d] - row[d];
    if (d < dim) sum = fmaf(gap, gap, sum);
  }
  return sum;
}

template <int kSteps>
__device__ __forceinline__ float squared_norm(const Point<kSteps>& point) {
  float sum = 0;
#pragma unroll
  for (int d = 0; d < 8 * kSteps; ++d) sum = fmaf(point.x[d], point.x[d], sum);
  return sum;
}

/// Centroid `i` of the 32 of which quad lane t kept the lowest score, in rising order of index.
__device__ __forceinline__ int lane_centroid(int group, int t, int i) {
  return group * kGroupCentroids + i / 2 * 8 + 2 * t + i % 2;
}

/// Whether score `a` of centroid i comes before score `b` of centroid j.
__device__ __forceinline__ bool comes_before(float a, int i, float b, int j) { return a < b || (a == b && i < j); }

/// Calls body with step_count(dim) as a constant.
template <class Body>
void with_steps(std::int64_t dim, const Body& body) {
  switch (step_count(dim)) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    default:
      return body(std::integral_constant<int, kMaxStepCount>());
  }
}

}  // namespace voronoi::kernels::gpu
