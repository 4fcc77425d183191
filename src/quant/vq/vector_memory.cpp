#include <algorithm>

#include "core/types.h"
#include "quant/vq/codebooks.h"
#include "quant/vq/kmeans_start.h"
#include "quant/vq/vector_cost.h"
#include "quant/vq/vector_method.h"

namespace voronoi::quant {

std::int64_t kmeans_bytes(std::int64_t points, std::int64_t n_chunks, std::int64_t dim, std::int64_t k,
                          std::int64_t team_size, std::int64_t stride) {
  const auto steps = [&](std::int64_t n, std::int64_t chunks) {
    const std::int64_t pieces = chunks * kernels::cpu_sum_pieces(n / chunks, k);
    const std::int64_t sums = 8 * (k * (dim + 1) + 1);
    // Each point's centroid, twice while it changes, its distance, and its place in the order of the cells. A team
    // exchanges the sums of all chunks in slices: its own, what arrives, what is sent, and the sum.
    return 16 * n + sums * (pieces + (team_size > 1 ? 3 * chunks + 3 : 0));
  };
  const std::int64_t coarse = stride > 1 ? points / stride : points;
  const std::int64_t sample = std::min(coarse * team_size, sample_size(k));
  const std::int64_t training = 4 * (dim + 1);
  // The sample's rows exist three times while they are gathered, its columns beside it while seeds are drawn.
  const std::int64_t starting =
      training * coarse +
      std::max({3 * training * sample, 2 * training * sample + 12 * sample, training * sample + steps(sample, 1)});
  return std::max({starting, training * coarse + steps(coarse, n_chunks), training * points + steps(points, n_chunks)});
}

VectorMemory vector_memory(const VqGeometry& g, const OperatorOnRank& r) {
  VectorMemory memory;
  memory.mine = core::ceil_div(g.n_parts, std::int64_t{r.team_size});
  const std::int64_t piece_weights = r.in_features * core::ceil_div(r.out_features, g.n_parts);
  memory.weights = piece_weights * memory.mine;
  memory.codes = 4 * memory.weights / g.v * (g.kr > 0 ? 2 : 1);
  memory.books = 4 * g.v * (g.k + g.kr) * g.groups;
  memory.held = r.held_bytes;
  memory.held += 4 * r.in_features * r.in_features * r.row_groups;  // the Hessians in processing order, damped
  memory.held += 8 * memory.weights + memory.codes + memory.books;
  memory.products =
      8 * r.in_features * std::min(kernels::kCpuStripRows * r.n_threads, core::ceil_div(memory.weights, r.in_features));
  return memory;
}

void consider_packing(const VqGeometry& g, const VectorMemory& memory, std::int64_t stored_bytes, std::int64_t more,
                      const OperatorOnRank& r, core::MemoryPeak& peak) {
  const std::int64_t all_codes = 4 * r.out_features * r.in_features / g.v;
  peak.consider(memory.held + more + (g.kr > 0 ? 4 : 3) * all_codes + stored_bytes, "packing of " + r.name);
}

void VectorMethod::consider_memory(const QuantParameters& parameters, const OperatorOnRank& r,
                                   core::MemoryPeak& peak) const {
  const VqGeometry g = make_geometry(parameters, r.out_features, r.in_features);
  const VectorMemory memory = vector_memory(g, r);
  const std::int64_t points = memory.weights / g.groups / g.v;
  const auto training_bytes = [&](std::int64_t k) {
    return kmeans_bytes(points, memory.mine, g.v, k, r.team_size,
                        coarse_stride(g, g.v, points * r.team_size / (kCoarsePointsACentroid * k)));
  };
  peak.consider(memory.held + memory.products, "products with the Hessian of " + r.name);
  peak.consider(memory.held + training_bytes(g.k), "k-means of " + r.name);
  // The columns at work, and the books as they are searched.
  std::int64_t loop = memory.products / 2 + memory.books / g.v * (g.v + 1);
  if (g.kr > 0) {
    loop += 4 * memory.weights;
    peak.consider(memory.held + 4 * memory.weights + training_bytes(g.kr), "k-means of the residuals of " + r.name);
  }
  peak.consider(memory.held + loop, "column loop of " + r.name);
  consider_packing(g, memory, stored_bits(parameters, r.out_features, r.in_features).total() / 8, 0, r, peak);
}

}  // namespace voronoi::quant
