// Inner loops of kernels/cpu/vq.cpp, compiled once for each vector width and chosen at run time.
// Score of point x and centroid c: |c|^2 / 2 - x.c, started from the rounded half norm and updated by one fused
// multiply-subtract a dimension in rising order. Every width computes these same bits, so every width makes the same
// choices.
#pragma once

#include <cstdint>

#include "kernels/vq.h"

namespace voronoi::kernels::vq {

inline constexpr std::int64_t kPanel = 16;         ///< centroids a panel: one 512-bit vector
inline constexpr std::int64_t kBlockPoints = 512;  ///< points a unit of work

/// Centroids packed for the scan: data [count][dim + 1][kPanel], row `dim` holds |c|^2 / 2. Surplus lanes of the last
/// panel are zero with an infinite half norm, so they never win.
struct Panels {
  std::int64_t dim = 0, k = 0, count = 0;
  const float* data = nullptr;

  const float* panel(std::int64_t i) const { return data + i * (dim + 1) * kPanel; }
};

/// index [n] of the lowest score for n <= kBlockPoints points [n, dim]; ties to the lowest index. distance2 (optional)
/// is sum (x - c)^2 by fused multiply-add in rising order of dimension.
void nearest_block(const Panels& panels, std::int64_t n, const float* points, std::int32_t* index, float* distance2);
/// index [n, m] of the m lowest scores in rising order, m <= min(kMaxNearest, k).
void nearest_m_block(const Panels& panels, std::int64_t n, const float* points, std::int64_t m, std::int32_t* index);
/// sums [k, dim] += w_i * point_i and mass [k] += w_i by index[i], in order of i. Every index is inside [0, k).
void centroid_sums(std::int64_t n, std::int64_t dim, const float* points, const float* weights,
                   const std::int32_t* index, double* sums, double* mass);

/// One block (n <= kPotentialBlock) of kernels/vq.h's potentials; columns [dim] with `stride` floats between them.
void potentials_block(std::int64_t n, std::int64_t dim, const float* columns, std::int64_t stride, const float* weights,
                      float* distance2, std::int64_t n_candidates, const float* candidates, bool update, double* sums);
/// sum (x - c)^2 over `dim` components, with the bits of nearest_block.
float squared_distance(std::int64_t dim, const float* x, const float* c);

/// For tests: use vectors of at most this many bits (512, 256, 0 = plain code) where the machine has them; -1: the best
/// it has.
void limit_vector_bits(int bits);

}  // namespace voronoi::kernels::vq
