#include "quant/aqlm/additive_start.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/tensor.h"
#include "core/index.h"
#include "core/types.h"
#include "quant/vq/codebooks.h"
#include "quant/vq/kmeans.h"

namespace voronoi::quant {

using core::index;

namespace {

// Of rows whose length no 16 bits hold: they are as good as 0, but k-means needs points that count.
constexpr double kLeastRowWeight = 1e-12;

/// [rows, in / g, g] of the weight over the scales, which are set.
std::vector<float> scaled_vectors(AdditiveRows& rows, bool round) {
  const std::int64_t n = rows.extents().in_features;
  std::vector<float> points(index(rows.rows() * n));
  rows.pool().parallel_for(rows.rows(), [&](std::int64_t row) {
    const float* w = rows.weight().data() + row * n;
    double square = 0;
    for (std::int64_t c = 0; c < n; ++c) square += static_cast<double>(w[c]) * static_cast<double>(w[c]);
    auto scale = static_cast<float>(std::sqrt(square) + 1e-9);
    if (round) scale = core::round_to(rows.extents().dtype, std::min(scale, core::kLargestF16));
    if (scale == 0) scale = 1;  // the row is as good as 0
    rows.numbers.scale[index(row)] = scale;
    for (std::int64_t c = 0; c < n; ++c) points[index(row * n + c)] = w[c] / scale;
  });
  return points;
}

/// How much each vector counts, about 1 at most.
std::vector<float> vector_weights(const AdditiveRows& rows, bool published) {
  const std::int64_t n = rows.extents().in_features, g = rows.extents().in_group, groups = rows.extents().groups();
  std::vector<float> weights(index(rows.rows() * groups), 1.0F);
  if (published) return weights;
  std::vector<double> trace(index(groups), 0.0);
  double largest = 0;
  for (std::int64_t j = 0; j < groups; ++j) {
    for (std::int64_t i = 0; i < g; ++i)
      trace[index(j)] += static_cast<double>(rows.hessian()[index((j * g + i) * (n + 1))]);
    largest = std::max(largest, trace[index(j)]);
  }
  if (!(largest > 0)) return weights;
  for (std::int64_t row = 0; row < rows.rows(); ++row) {
    double square = 0;
    for (std::int64_t c = 0; c < n; ++c) {
      const auto w = static_cast<double>(rows.weight()[index(row * n + c)]);
      square += w * w;
    }
    for (std::int64_t j = 0; j < groups; ++j)
      weights[index(row * groups + j)] =
          static_cast<float>(std::max(square, kLeastRowWeight) * (trace[index(j)] / largest));
  }
  return weights;
}

}  // namespace

int start_codes(backend::Context& context, AdditiveRows& rows, const AdditiveStart& start) {
  const format::AqlmExtents& e = rows.extents();
  const RowPieces& pieces = rows.pieces();
  const std::int64_t g = e.in_group, k = e.centroids(), n_points = rows.rows() * e.groups();
  std::vector<float> points = scaled_vectors(rows, !start.published);
  const std::vector<float> weights = vector_weights(rows, start.published);
  std::vector<std::int64_t> chunk_begin;
  for (std::int64_t piece = pieces.first; piece <= pieces.end; ++piece)
    chunk_begin.push_back((pieces.begin_of(piece) - pieces.row_begin()) * e.groups());
  KmeansParameters run;
  run.k = k;
  run.dim = g;
  run.max_iterations = start.kmeans_iterations;
  run.tolerance = start.kmeans_tolerance;
  run.seed = start.seed;
  int steps = 0;
  const backend::DeviceView<float> device_weights(context, weights);
  for (std::int64_t m = 0; m < e.codebooks; ++m) {
    rows.team().check_stop();
    const backend::DeviceView<float> device_points(context, points);
    run.stream = start.stream + static_cast<std::uint64_t>(m);
    KmeansResult result = kmeans(context, rows.team(), pieces.count,
                                 {pieces.first, chunk_begin, device_points.data(), device_weights.data()}, run);
    steps += result.iterations;
    if (!start.published) round_to_stored(e.dtype, result.centroids);
    std::copy(result.centroids.begin(), result.centroids.end(), rows.numbers.books.begin() + m * k * g);
    std::vector<std::int32_t> nearest(index(n_points));
    if (n_points > 0) {
      const backend::DeviceView<float> centroids(context, result.centroids);
      backend::Array<std::int32_t> chosen(context, n_points);
      context.vq().nearest(context.exec(), n_points, g, device_points.data(), k, centroids.data(), nullptr,
                           chosen.data(), nullptr);
      nearest = chosen.to_host();
    }
    rows.pool().parallel_for(rows.rows(), [&](std::int64_t row) {
      for (std::int64_t i = row * e.groups(); i < (row + 1) * e.groups(); ++i) {
        rows.numbers.codes[index(i * e.codebooks + m)] = static_cast<std::uint16_t>(nearest[index(i)]);
        for (std::int64_t c = 0; c < g; ++c)
          points[index(i * g + c)] -= result.centroids[index(nearest[index(i)] * g + c)];
      }
    });
  }
  return steps;
}

}  // namespace voronoi::quant
