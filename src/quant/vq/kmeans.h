// Weighted k-means over the vectors of one codebook (Lloyd 1982; k-means++ start of Arthur & Vassilvitskii 2007).
// Objective: sum_i w_i |x_i - c(i)|^2, w_i = the Hessian diagonal of the vector's column in the metric that is
// optimised.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/device.h"
#include "core/team.h"

namespace voronoi::quant {

/// This member's share of the training set, in device memory, in chunks. Chunk ids are 0 .. n_chunks-1 over all members
/// of the team, each chunk held by one member, members hold rising contiguous ranges. Sums are combined in order of id,
/// so the result does not depend on who holds what.
struct KmeansPoints {
  std::int64_t first_chunk = 0;
  std::span<const std::int64_t> chunk_begin;  ///< host: where each chunk starts, and the number of points
  const float* points = nullptr;              ///< [n, dim]
  const float* weights = nullptr;             ///< [n], >= 0, finite

  std::int64_t n_chunks() const { return static_cast<std::int64_t>(chunk_begin.size()) - 1; }
  std::int64_t n() const { return chunk_begin.back(); }
};

struct KmeansParameters {
  std::int64_t k = 0, dim = 0;
  int max_iterations = 100;
  double tolerance = 1e-4;  ///< stop when one step lowers the objective by less than this share of it
  std::uint64_t seed = 0, stream = 0;
  std::span<const float> initial =
      {};  ///< [k, dim] or empty: k-means++ on a sample drawn by counter-based random numbers
};

struct KmeansResult {
  std::vector<float> centroids;   ///< [k, dim]
  std::vector<double> objective;  ///< before the first step, then after each
  int iterations = 0;
  std::int64_t repaired = 0;  ///< empty clusters that were given a new place, over all steps
  bool converged = false;     ///< by the relative rule, before max_iterations
};

/// Collective over the team. Fewer distinct points than k is legal: surplus centroids repeat points. n_chunks: over the
/// whole team.
KmeansResult kmeans(backend::Context& context, core::Team& team, std::int64_t n_chunks, const KmeansPoints& mine,
                    const KmeansParameters& parameters);

}  // namespace voronoi::quant
