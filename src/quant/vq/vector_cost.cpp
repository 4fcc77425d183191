#include "quant/vq/vector_cost.h"

#include <algorithm>
#include <cmath>

#include "core/types.h"
#include "quant/vq/codebooks.h"
#include "quant/vq/kmeans_start.h"
#include "quant/vq/vector_method.h"

namespace voronoi::quant {
namespace {

// How many steps were seen before the relative rules stopped them, on the layers of SmolLM2-135M at 2 to 4 bits.
constexpr double kSampleSteps = 20, kCoarseSteps = 22, kSteps = 40;

Work lloyd(double points, double dim, double k, double steps) {
  Work work;
  work.nearest = 2 * points * k * dim * (steps + 1);
  work.scattered = points * (dim + 1) * (steps + 1);
  work.steps = 4 * (steps + 1);
  return work;
}

Work seeding(double points, double dim, std::int64_t k) {
  Work work;
  const auto seeds = static_cast<double>(k);
  if (k <= kGreedySeeds) {
    // The first seed, then candidates and the best of them.
    work.seeding = 3 * points * dim * (1 + (seeds - 1) * static_cast<double>(seed_candidates(k) + 1));
  } else {
    work.nearest = 2 * points * seeds * dim;
  }
  return work;
}

}  // namespace

Work start_work(double points, std::int64_t v, std::int64_t codebook, std::int64_t stride, std::int64_t most_steps) {
  const auto dim = static_cast<double>(v);
  const double coarse = points / static_cast<double>(stride);
  const auto sample = static_cast<double>(sample_size(codebook));
  Work work = seeding(std::min(coarse, sample), dim, codebook);
  if (coarse > sample)
    work += lloyd(sample, dim, static_cast<double>(codebook), std::min(static_cast<double>(most_steps), kSampleSteps));
  return work;
}

Work training_work(double points, std::int64_t v, std::int64_t codebook, std::int64_t stride, std::int64_t most_steps) {
  const auto most = static_cast<double>(most_steps);
  const auto dim = static_cast<double>(v), k = static_cast<double>(codebook);
  const double coarse = points / static_cast<double>(stride);
  Work work = start_work(points, v, codebook, stride, most_steps);
  if (stride > 1) work += lloyd(coarse, dim, k, std::min(most, kCoarseSteps));
  return work + lloyd(points, dim, k, std::min(most, kSteps));
}

Work search_work(const VqGeometry& g, std::int64_t candidates, bool with_residual) {
  const double columns = static_cast<double>(g.in_features), weights = static_cast<double>(g.out_features) * columns;
  Work work;
  work.nearest = 2 * weights * static_cast<double>(g.k);
  if (with_residual) work.nearest += 2 * weights * static_cast<double>(g.kr) * static_cast<double>(candidates);
  work.bytes = 12 * weights;
  // Scaling, search, decoding and what the column owes the next ones, column by column.
  work.steps = (with_residual ? 6 : 4) * columns;
  return work;
}

OperatorWork VectorMethod::work(const QuantParameters& parameters, std::int64_t out_features,
                                std::int64_t in_features) const {
  const VqGeometry g = make_geometry(parameters, out_features, in_features);
  const bool residual = g.kr > 0;
  const double vectors =
      std::floor(static_cast<double>(out_features) / static_cast<double>(g.v)) * static_cast<double>(g.group_size);
  const std::int64_t most_steps = parameters.get<VectorParameters>().kmeans_iterations;
  OperatorWork work;
  const auto training = [&](std::int64_t k) {
    const auto wanted = static_cast<std::int64_t>(vectors) / (kCoarsePointsACentroid * k);
    const std::int64_t stride = coarse_stride(g, g.v, wanted);
    work.repeated += start_work(vectors, g.v, k, stride, most_steps) * static_cast<double>(g.groups);
    return training_work(vectors, g.v, k, stride, most_steps) * static_cast<double>(g.groups);
  };
  work.kmeans = training(g.k);
  if (residual) work.kmeans += training(g.kr);
  // Without feedback, with it, and with the residual codebook; the true error after each, and of the weight itself.
  work.column_loop = search_work(g, 1, false) * 2 + product_work(out_features, in_features, 0.5 + 3);
  if (residual)
    work.column_loop += search_work(g, candidates(parameters), true) + product_work(out_features, in_features, 0.5 + 1);

  const double weights = static_cast<double>(out_features) * static_cast<double>(in_features);
  work.exchange_bytes = 4 * weights / static_cast<double>(g.v) * (residual ? 2 : 1);
  for (const std::int64_t entries : {g.k, g.kr})
    if (entries > 0)
      work.sums.push_back({static_cast<double>(entries * (g.v + 1) + 1),
                           static_cast<double>(g.groups) * (std::min(static_cast<double>(most_steps), kCoarseSteps) +
                                                            std::min(static_cast<double>(most_steps), kSteps) + 2)});
  work.row_pieces = g.n_parts;
  return work;
}

}  // namespace voronoi::quant
