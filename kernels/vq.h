// Nearest centroids and their sums: the hot loops of vector quantization. fp32 points as rows of `dim` consecutive
// floats. Ties go to the lowest index; results depend on neither thread count nor vector width. Distances are compared
// as |c|^2 / 2 - x.c in fp32: the chosen one is the nearest up to 4 (dim + 1) 2^-24 (|c|^2 / 2 + |x| |c|), about 1e-5
// for normalised data of size 1; data far from the origin compared with its spread should be centred first.
#pragma once

#include <cstdint>

#include "kernels/exec.h"

namespace voronoi::kernels {

struct VqKernels {
  /// index[i] = argmin_j |points[i] - centroids[j]|^2 for points [n, dim] and centroids [k, dim]; the n x k distances
  /// are never stored. distance2 (optional, n) receives the squared distance to the chosen one. valid_dims (optional,
  /// n): only the first valid_dims[i] components of point i take part (tail vectors).
  void (*nearest)(const Exec&, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
                  const float* centroids, const std::int32_t* valid_dims, std::int32_t* index, float* distance2);
  /// The `m` nearest centroids of each point in rising order of distance: index [n, m]. m <= 16.
  void (*nearest_m)(const Exec&, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
                    const float* centroids, const std::int32_t* valid_dims, std::int64_t m, std::int32_t* index);
  /// Weighted sums of one chunk of points: sums [k, dim] += w_i * point_i, mass [k] += w_i, by index[i]; fp64, in order
  /// of i (a chunk is the unit of work, so no thread pool is used inside). weights may be null (all 1).
  void (*centroid_sums)(std::int64_t n, std::int64_t dim, const float* points, const float* weights,
                        const std::int32_t* index, std::int64_t k, double* sums, double* mass);
  /// k-means++: for each block b of kPotentialBlock points and each candidate c, block_sums[b, c] = sum_i weights[i] *
  /// min(distance2[i], |x_i - candidates[c]|^2), points given by column: columns [dim, n]. `update` (one candidate
  /// only): distance2 becomes that minimum. Sums are fp32 in 16 interleaved parts a block, merged in fp64.
  void (*potentials)(const Exec&, std::int64_t n, std::int64_t dim, const float* columns, const float* weights,
                     float* distance2, std::int64_t n_candidates, const float* candidates, bool update,
                     double* block_sums);
};

inline constexpr std::int64_t kPotentialBlock = 1024;

}  // namespace voronoi::kernels
