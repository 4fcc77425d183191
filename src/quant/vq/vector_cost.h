// Work and memory of VPTQ's passes, from shapes and parameters alone: what the methods built on them add their own to.
#pragma once

#include <cstdint>

#include "core/memory_peak.h"
#include "quant/cost.h"
#include "quant/method.h"
#include "quant/vq/layout.h"

namespace voronoi::quant {

/// Codes of every column once. The residual of each of `candidates` main centroids is looked for.
Work search_work(const VqGeometry& geometry, std::int64_t candidates, bool with_residual);

/// Of a codebook of k over so many vectors of dim values, at most so many Lloyd steps. stride: above 1, trained on
/// every so many-th of them first.
Work start_work(double points, std::int64_t dim, std::int64_t k, std::int64_t stride, std::int64_t most_steps);
Work training_work(double points, std::int64_t dim, std::int64_t k, std::int64_t stride, std::int64_t most_steps);
/// What k-means over `points` vectors in n_chunks chunks holds on a rank, and before it over one in `stride` of them.
std::int64_t kmeans_bytes(std::int64_t points, std::int64_t n_chunks, std::int64_t dim, std::int64_t k,
                          std::int64_t team_size, std::int64_t stride);

/// Bytes of an operator's quantization on one rank.
struct VectorMemory {
  std::int64_t mine = 0;      ///< parts of the rows
  std::int64_t held = 0;      ///< from the first pass to the last: the site's, the Hessian in order, pieces, codebooks
  std::int64_t products = 0;  ///< a matrix and its product with H for each busy thread
  std::int64_t weights = 0;   ///< 32-bit numbers of this rank's rows
  std::int64_t codes = 0;     ///< main and residual
  std::int64_t books = 0;
};
VectorMemory vector_memory(const VqGeometry& geometry, const OperatorOnRank& r);

/// The moment in which the whole operator is packed, `more` bytes held beside VectorMemory::held.
void consider_packing(const VqGeometry& geometry, const VectorMemory& memory, std::int64_t stored_bytes,
                      std::int64_t more, const OperatorOnRank& r, core::MemoryPeak& peak);

}  // namespace voronoi::quant
