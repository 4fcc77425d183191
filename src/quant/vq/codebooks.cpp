#include "quant/vq/codebooks.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "quant/vq/kmeans.h"
#include "quant/vq/vector_parameters.h"

namespace voronoi::quant {

std::uint64_t random_stream(const std::string& name) {
  return std::stoull(core::sha256(name).substr(0, 16), nullptr, 16);
}

DeviceBooks::DeviceBooks(backend::Context& context, const Codebooks& books, const ColumnScale& columns)
    : main_(context, books.main),
      residual_(context, books.residual),
      outlier_(context, books.outlier),
      scale_(context, columns.scale),
      bias_(context, columns.bias),
      has_residual_(!books.residual.empty()) {}

kernels::VqBooks DeviceBooks::view() const {
  return {main_.data(), has_residual_ ? residual_.data() : nullptr, outlier_.data(), scale_.data(), bias_.data()};
}

void round_to_stored(core::DType dtype, std::span<float> values) {
  for (float& value : values) value = core::round_to(dtype, value);
}

std::int64_t coarse_stride(const VqGeometry& geometry, std::int64_t dim, std::int64_t wanted) {
  const auto sees_all_rows = [&](std::int64_t stride) {
    for (std::int64_t part = 0; part < geometry.n_parts; ++part)
      if (const std::int64_t vectors = (geometry.row_end(part) - geometry.row_begin(part)) / dim;
          vectors > 0 && std::gcd(stride, vectors) > 1)
        return false;
    return true;
  };
  for (std::int64_t by = 0; by <= wanted / 2; ++by)
    for (const std::int64_t stride : {wanted - by, wanted + by})
      if (stride > 1 && sees_all_rows(stride)) return stride;
  return std::max<std::int64_t>(wanted, 1);
}

std::vector<float> train_codebook(const VqProblem& problem, const ColumnScale& columns, const TrainingSet& set,
                                  std::int64_t k, const std::string& name, std::map<std::string, double>& statistics) {
  backend::Context& context = problem.context;
  const VqGeometry& geometry = problem.geometry;
  const VqRows& rows = problem.rows;
  // Weights of columns, for each group of rows, relative to the largest of all: any unit of H fits fp32, and the groups
  // count as their Hessians say.
  const auto count = static_cast<std::size_t>(set.count);
  std::vector<double> cost;
  double largest = 0;
  for (const VqMetric& metric : problem.metrics)
    for (std::int64_t j = 0; j < set.count; ++j) {
      const auto p = static_cast<std::size_t>(set.first + j);
      const double scale = static_cast<double>(columns.scale[p]);
      cost.push_back(metric.importance.empty() ? 0 : metric.importance[p] * scale * scale);
      largest = std::max(largest, cost.back());
    }
  std::vector<float> column_weight(cost.size());
  std::transform(cost.begin(), cost.end(), column_weight.begin(),
                 [&](double value) { return static_cast<float>(largest > 0 ? value / largest : 1.0); });
  const backend::DeviceView<float> device_weight(context, column_weight), scale(context, columns.scale),
      bias(context, columns.bias);

  std::int64_t n_points = 0;
  for (std::int64_t part = 0; part < geometry.n_parts; ++part)
    n_points += (geometry.row_end(part) - geometry.row_begin(part)) / set.dim * set.count;
  KmeansParameters run;
  run.k = k;
  run.dim = set.dim;
  run.max_iterations = problem.parameters.get<VectorParameters>().kmeans_iterations;
  run.tolerance = problem.parameters.get<VectorParameters>().kmeans_tolerance;
  run.seed = problem.parameters.seed;
  run.stream = random_stream(problem.input.name + ":" + name);

  const auto train = [&](std::int64_t stride, std::span<const float> start) {
    std::vector<std::int64_t> chunk_begin{0};
    for (std::int64_t part = rows.parts.first; part < rows.parts.first + rows.parts.count; ++part) {
      const std::int64_t vectors = (geometry.row_end(part) - geometry.row_begin(part)) / set.dim;
      chunk_begin.push_back(chunk_begin.back() + core::ceil_div(vectors * set.count, stride));
    }
    backend::Array<float> points(context, chunk_begin.back() * set.dim), weights(context, chunk_begin.back());
    const bool of_weight = set.residual == nullptr;
    for (const VqPiece& piece : rows.pieces) {
      const std::int64_t first = chunk_begin[static_cast<std::size_t>(piece.parts.first - rows.parts.first)];
      context.slice().gather_training(context.exec(), piece.slice, {set.first, set.count, set.dim, stride},
                                      piece.values(of_weight ? rows.weight.data() : set.residual->data()), scale.data(),
                                      of_weight ? bias.data() : nullptr,
                                      device_weight.data() + static_cast<std::size_t>(piece.row_group) * count,
                                      points.data() + first * set.dim, weights.data() + first);
    }
    run.initial = start;
    return kmeans(context, problem.team, geometry.n_parts,
                  {rows.parts.first, chunk_begin, points.data(), weights.data()}, run);
  };

  if (n_points == 0) {
    // Fewer rows than one vector: nothing to train on, and only tail vectors to code. Zero is the mean of scaled
    // weights.
    return std::vector<float>(static_cast<std::size_t>(k * set.dim), 0.0F);
  }
  const std::int64_t stride = coarse_stride(geometry, set.dim, n_points / (kCoarsePointsACentroid * k));
  int coarse_iterations = 0;
  std::vector<float> start;
  if (stride > 1) {
    KmeansResult coarse = train(stride, {});
    coarse_iterations = coarse.iterations;
    start = std::move(coarse.centroids);
  }
  KmeansResult result = train(1, start);
  statistics["kmeans_" + name + "_coarse_iterations"] = coarse_iterations;
  statistics["kmeans_" + name + "_iterations"] = result.iterations;
  statistics["kmeans_" + name + "_converged"] = result.converged ? 1 : 0;
  statistics["kmeans_" + name + "_repaired"] = static_cast<double>(result.repaired);
  round_to_stored(problem.input.stored_dtype, result.centroids);
  // No code may be searched for among such: distances to them are not numbers.
  for (const float value : result.centroids)
    if (!std::isfinite(value))
      throw core::NumericError("codebook " + name + ": a centroid is beyond what " +
                               std::string(core::dtype_name(problem.input.stored_dtype)) +
                               " holds; errors fed back have grown too large: raise --damping");
  return std::move(result.centroids);
}

}  // namespace voronoi::quant
