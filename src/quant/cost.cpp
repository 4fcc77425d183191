#include "quant/cost.h"

#include <algorithm>
#include <cmath>

#include "core/types.h"
#include "quant/baselines/uniform.h"
#include "quant/vq/codebooks.h"
#include "quant/vq/kmeans_start.h"
#include "quant/vq/layout.h"

namespace voronoi::quant {
namespace {

// How many steps were seen before the relative rules stopped them, on the layers of SmolLM2-135M at 2 to 4 bits.
constexpr double kSampleSteps = 20, kCoarseSteps = 22, kSteps = 40;
constexpr double kFitSteps = 4, kSweeps = 3.5;  // a round; codebooks and columns are fitted apart

struct Shape {
  double rows = 0, columns = 0;
  double weights() const { return rows * columns; }
  /// A product of the operator with its Hessian.
  double product() const { return 2 * rows * columns * columns; }
};

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
    work.seeding = 3 * points * dim * seeds * static_cast<double>(seed_candidates(k) + 1);
  } else {
    work.nearest = 2 * points * seeds * dim;
  }
  return work;
}

Work training(double points, std::int64_t v, std::int64_t codebook) {
  const auto dim = static_cast<double>(v), k = static_cast<double>(codebook);
  const double stride = std::floor(points / (static_cast<double>(kCoarsePointsACentroid) * k));
  const double coarse = stride > 1 ? points / stride : points;
  const auto sample = static_cast<double>(sample_size(codebook));
  Work work = seeding(std::min(coarse, sample), dim, codebook);
  if (coarse > sample) work += lloyd(sample, dim, k, kSampleSteps);
  if (stride > 1) work += lloyd(coarse, dim, k, kCoarseSteps);
  return work + lloyd(points, dim, k, kSteps);
}

/// Codes of every column once. The residual of each of `candidates` main centroids is looked for.
Work search(const Shape& shape, const VqGeometry& g, double candidates, bool with_residual) {
  Work work;
  work.nearest = 2 * shape.weights() * static_cast<double>(g.k);
  if (with_residual) work.nearest += 2 * shape.weights() * static_cast<double>(g.kr) * candidates;
  work.bytes = 12 * shape.weights();
  // Scaling, search, decoding and what the column owes the next ones, column by column.
  work.steps = (with_residual ? 6 : 4) * shape.columns;
  return work;
}

Work products(const Shape& shape, double count) {
  Work work;
  work.gemm = shape.product() * count;
  work.bytes = 12 * shape.weights() * count;
  return work;
}

OperatorWork vector_work(const QuantParameters& p, const Shape& shape, const VqGeometry& g) {
  const bool residual = g.kr > 0;
  const double vectors = std::floor(shape.rows / static_cast<double>(g.v)) * static_cast<double>(g.group_size);
  const double candidates = residual && p.method == "voronoi" ? p.candidates : 1;
  OperatorWork work;
  work.kmeans = training(vectors, g.v, g.k) * static_cast<double>(g.groups);
  if (residual) work.kmeans += training(vectors, g.v, g.kr) * static_cast<double>(g.groups);
  // Without feedback, with it, and with the residual codebook; the true error after each, and of the weight itself.
  work.column_loop = search(shape, g, 1, false) * 2 + products(shape, 0.5 + 3);
  if (residual) work.column_loop += search(shape, g, candidates, true) + products(shape, 0.5 + 1);
  if (p.method != "voronoi") return work;
  work.refine = products(shape, 1);
  Work round = products(shape, 2 * kFitSteps + 3 + kSweeps) + search(shape, g, candidates, residual) * kSweeps;
  round.scattered += 2 * shape.weights() * (residual ? 2 : 1) * kFitSteps;
  work.refine += round * static_cast<double>(p.rounds);
  return work;
}

}  // namespace

Work& Work::operator+=(const Work& other) {
  gemm += other.gemm;
  nearest += other.nearest;
  factor += other.factor;
  seeding += other.seeding;
  scattered += other.scattered;
  bytes += other.bytes;
  steps += other.steps;
  return *this;
}

Work operator*(Work work, double by) {
  for (double* value :
       {&work.gemm, &work.nearest, &work.factor, &work.seeding, &work.scattered, &work.bytes, &work.steps})
    *value *= by;
  return work;
}

Work hessian_work(std::int64_t n) {
  const auto order = static_cast<double>(n);
  Work work;
  work.factor = 2.0 / 3.0 * order * order * order;
  work.bytes = 40 * order * order;
  return work;
}

OperatorWork operator_work(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features) {
  const Shape shape{static_cast<double>(out_features), static_cast<double>(in_features)};
  if (parameters.method == "vptq" || parameters.method == "voronoi")
    return vector_work(parameters, shape, make_geometry(parameters, out_features, in_features));
  OperatorWork work;
  // Rounding, packing and decoding pass over the weights; the error at the end is two products.
  work.column_loop = products(shape, parameters.method == "gptq" ? 2.5 : 2);
  work.column_loop.bytes += 60 * shape.weights();
  return work;
}

double team_exchange_bytes(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features) {
  const double weights = static_cast<double>(out_features) * static_cast<double>(in_features);
  if (parameters.method != "vptq" && parameters.method != "voronoi") return weights * parameters.bits / 8;
  const VqGeometry g = make_geometry(parameters, out_features, in_features);
  const auto pieces = static_cast<double>(g.n_parts), v = static_cast<double>(g.v),
             entries = static_cast<double>(g.k + g.kr), groups = static_cast<double>(g.groups);
  const double codes = 4 * weights / v * (g.kr > 0 ? 2 : 1);
  double sums = 8 * pieces * entries * (v + 1) * groups * (kCoarseSteps + kSteps + 2);
  if (parameters.method == "voronoi")
    sums += parameters.rounds * 8 * pieces * (kFitSteps + 2) *
            (entries * v * groups + 2 * static_cast<double>(in_features));
  return codes + sums;
}

std::int64_t row_pieces(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features) {
  if (parameters.method == "vptq" || parameters.method == "voronoi")
    return make_geometry(parameters, out_features, in_features).n_parts;
  return core::ceil_div(out_features, kRowTile);
}

}  // namespace voronoi::quant
