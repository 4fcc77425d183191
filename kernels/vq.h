// Nearest centroids and their sums: the hot loops of vector quantization. fp32 points as rows of `dim` consecutive
// floats, in device memory. Ties go to the lowest index; results depend on neither thread count nor vector width.
// Distances are compared as |c|^2 / 2 - x.c in fp32: the chosen one is the nearest up to 4 (dim + 1) 2^-24 (|c|^2 / 2 +
// |x| |c|), about 1e-5 for normalised data of size 1; data far from the origin compared with its spread should be
// centred first.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/exec.h"

namespace voronoi::kernels {

inline constexpr std::int64_t kPotentialBlock = 1024;
inline constexpr std::int64_t kMaxNearest = 16;

struct VqKernels {
  /// index[i] = argmin_j |points[i] - centroids[j]|^2 for points [n, dim] and centroids [k, dim]; the n x k distances
  /// are never stored. distance2 (optional, n) receives the squared distance to the chosen one. valid_dims (optional,
  /// n): only the first valid_dims[i] components of point i take part (tail vectors).
  void (*nearest)(const Exec&, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
                  const float* centroids, const std::int32_t* valid_dims, std::int32_t* index, float* distance2);
  /// The same for points that come with a centroid each, in `index`, any of the k: what lies too far from it to be
  /// nearer is not looked at. For steps that move centroids a little. Points and centroids as check_points takes them.
  void (*nearest_from)(const Exec&, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
                       const float* centroids, std::int32_t* index, float* distance2);
  /// The `m` nearest centroids of each point in rising order of distance: index [n, m]. m <= kMaxNearest.
  void (*nearest_m)(const Exec&, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
                    const float* centroids, const std::int32_t* valid_dims, std::int64_t m, std::int32_t* index);
  /// Sums of a k-means step: for each chunk of points [chunk_begin[c], chunk_begin[c + 1]) (host, n_chunks + 1) an
  /// array of size k (dim + 1) + 1: sum of w_i x_i a centroid [k, dim], its mass sum of w_i [k], and the objective sum
  /// of w_i distance2_i; by index[i], fp64. combined: one array, the chunks added in order; else [n_chunks, size]. The
  /// bits depend on the chunks alone.
  void (*centroid_sums)(const Exec&, std::int64_t n_chunks, const std::int64_t* chunk_begin, std::int64_t dim,
                        const float* points, const float* weights, const std::int32_t* index, const float* distance2,
                        std::int64_t k, bool combined, double* sums);
  /// k-means++: for each block b of kPotentialBlock points and each candidate c, block_sums[b, c] = sum_i weights[i] *
  /// min(distance2[i], |x_i - candidates[c]|^2), points given by column: columns [dim, n]. `update` (one candidate
  /// only): distance2 becomes that minimum. Sums are fp32 in 16 interleaved parts a block, merged in fp64.
  void (*potentials)(const Exec&, std::int64_t n, std::int64_t dim, const float* columns, const float* weights,
                     float* distance2, std::int64_t n_candidates, const float* candidates, bool update,
                     double* block_sums);
  /// distance2[i] = min(distance2[i], other[i]), and block_sums[b] = sum of weights[i] * distance2[i] over block b,
  /// fp64 in order of i.
  void (*lower_potentials)(const Exec&, std::int64_t n, const float* weights, const float* other, float* distance2,
                           double* block_sums);
  /// facts (host) a chunk: whether all points are at most `largest` in magnitude and all weights finite and >= 0.
  void (*check_points)(const Exec&, std::int64_t n_chunks, const std::int64_t* chunk_begin, std::int64_t dim,
                       const float* points, const float* weights, float largest, bool* sound);
};

/// Pieces of a chunk of n points whose sums the CPU makes apart, each in an array of its own, before they are added in
/// order: what its centroid_sums holds, and part of what its bits depend on.
constexpr std::int64_t cpu_sum_pieces(std::int64_t n, std::int64_t k) {
  constexpr std::int64_t kLeastPoints = 8192, kPiecesAtMost = 8;
  return std::clamp<std::int64_t>(n / std::max(kLeastPoints, 4 * k), 1, kPiecesAtMost);
}

}  // namespace voronoi::kernels
