#include "quant/vq/codebooks.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "quant/vq/kmeans.h"

namespace voronoi::quant {
namespace {

// Lloyd steps start on a share of the vectors: this many a centroid place it well enough for the last steps, over all
// vectors, to be few.
constexpr std::int64_t kCoarsePointsACentroid = 64;

/// Training vectors of one piece: every stride-th whole vector of its columns, counted through the piece.
struct PieceTraining {
  std::vector<float> points, weights;
};

PieceTraining collect(const Piece& piece, const ColumnScale& columns, std::span<const double> weight_of,
                      const TrainingSet& set, TrainingSource source, std::int64_t stride) {
  const std::int64_t per_column = piece.rows / set.dim, n = core::ceil_div(per_column * set.count, stride);
  PieceTraining training;
  training.points.resize(static_cast<std::size_t>(n * set.dim));
  training.weights.resize(static_cast<std::size_t>(n));
  const std::vector<float>& matrix = source == TrainingSource::weight ? piece.weight : piece.residual;
  float* point = training.points.data();
  for (std::int64_t i = 0, at = 0; at < per_column * set.count; ++i, at += stride, point += set.dim) {
    const std::int64_t column = at / per_column, position = set.first + column;
    const auto p = static_cast<std::size_t>(position);
    const float inverse = 1.0F / columns.scale[p], bias = source == TrainingSource::weight ? columns.bias[p] : 0.0F;
    const float* vector = matrix.data() + position * piece.width + (at - column * per_column) * set.dim;
    for (std::int64_t d = 0; d < set.dim; ++d) point[d] = (vector[d] - bias) * inverse;
    training.weights[static_cast<std::size_t>(i)] = static_cast<float>(weight_of[static_cast<std::size_t>(column)]);
  }
  return training;
}

std::uint64_t random_stream(const std::string& name) {
  return std::stoull(core::sha256(name).substr(0, 16), nullptr, 16);
}

}  // namespace

void round_to_stored(core::DType dtype, std::span<float> values) {
  for (float& value : values) value = core::round_to(dtype, value);
}

void decode_column(const VqGeometry& geometry, const Codebooks& books, const ColumnScale& columns, const Piece& piece,
                   std::int64_t position, const std::int32_t* codes, const std::int32_t* residual_codes,
                   float* quantized) {
  const std::int64_t rows = piece.rows;
  const auto p = static_cast<std::size_t>(position);
  const float scale = columns.scale[p], bias = columns.bias[p];
  if (geometry.is_outlier(position)) {
    const std::int64_t v = geometry.v0;
    for (std::int64_t r = 0; r < rows; ++r)
      quantized[r] = books.outlier[static_cast<std::size_t>(codes[r / v] * v + r % v)] * scale + bias;
  } else {
    const std::int64_t v = geometry.v, n = core::ceil_div(rows, v), group = geometry.group_of(position);
    const float* main = books.main.data() + group * geometry.k * v;
    const float* residual = books.residual.empty() ? nullptr : books.residual.data() + group * geometry.kr * v;
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t d = 0, r = i * v; d < v && r < rows; ++d, ++r) {
        float value = main[codes[i] * v + d];
        if (residual != nullptr) value += residual[residual_codes[i] * v + d];
        quantized[r] = value * scale + bias;
      }
  }
  std::fill(quantized + rows, quantized + piece.width, 0.0F);
}

std::vector<float> train_codebook(backend::Context& context, core::Team& team, const VqGeometry& geometry,
                                  const std::vector<Piece>& pieces, const ColumnScale& columns,
                                  std::span<const double> importance, const TrainingSet& set, TrainingSource source,
                                  std::int64_t k, const QuantInput& input, const QuantParameters& parameters,
                                  const std::string& name, std::span<const float> initial,
                                  std::map<std::string, double>& statistics) {
  // Weights relative to the largest: any unit of H fits fp32.
  std::vector<double> weight_of(static_cast<std::size_t>(set.count));
  double largest = 0;
  for (std::int64_t j = 0; j < set.count; ++j) {
    const auto p = static_cast<std::size_t>(set.first + j);
    const double scale = static_cast<double>(columns.scale[p]);
    largest = std::max(largest, weight_of[static_cast<std::size_t>(j)] = importance[p] * scale * scale);
  }
  for (double& weight : weight_of) weight = largest > 0 ? weight / largest : 1.0;

  std::int64_t n_points = 0;
  for (std::int64_t id = 0; id < geometry.n_pieces; ++id)
    n_points += (geometry.row_end(id) - geometry.row_begin(id)) / set.dim * set.count;
  KmeansParameters run;
  run.k = k;
  run.dim = set.dim;
  run.max_iterations = parameters.kmeans_iterations;
  run.tolerance = parameters.kmeans_tolerance;
  run.seed = parameters.seed;
  run.stream = random_stream(input.name + ":" + name);

  const auto train = [&](std::int64_t stride, std::span<const float> start) {
    std::vector<PieceTraining> training(pieces.size());
    context.pool().parallel_for(static_cast<std::int64_t>(pieces.size()), [&](std::int64_t i) {
      const auto at = static_cast<std::size_t>(i);
      training[at] = collect(pieces[at], columns, weight_of, set, source, stride);
    });
    std::vector<KmeansChunk> chunks;
    for (std::size_t i = 0; i < pieces.size(); ++i)
      chunks.push_back({pieces[i].id, static_cast<std::int64_t>(training[i].weights.size()), training[i].points.data(),
                        training[i].weights.data()});
    run.initial = start;
    return kmeans(context, team, geometry.n_pieces, chunks, run);
  };

  if (n_points == 0) {
    // Fewer rows than one vector: nothing to train on, and only tail vectors to code. Zero is the mean of scaled
    // weights.
    return std::vector<float>(static_cast<std::size_t>(k * set.dim), 0.0F);
  }
  const std::int64_t stride = n_points / (kCoarsePointsACentroid * k);
  KmeansResult result;
  int coarse_iterations = 0;
  std::vector<float> start(initial.begin(), initial.end());
  if (stride > 1 && start.empty()) {
    KmeansResult coarse = train(stride, {});
    coarse_iterations = coarse.iterations;
    start = std::move(coarse.centroids);
  }
  result = train(1, start);
  statistics["kmeans_" + name + "_coarse_iterations"] = coarse_iterations;
  statistics["kmeans_" + name + "_iterations"] = result.iterations;
  statistics["kmeans_" + name + "_converged"] = result.converged ? 1 : 0;
  statistics["kmeans_" + name + "_repaired"] = static_cast<double>(result.repaired);
  round_to_stored(input.stored_dtype, result.centroids);
  return std::move(result.centroids);
}

ColumnSearch::ColumnSearch(backend::Context& context, const VqGeometry& geometry, const Codebooks& books,
                           const ColumnScale& columns, std::int64_t candidates, const Piece& piece,
                           std::int64_t searched_rows)
    : context_(context),
      geometry_(geometry),
      books_(books),
      columns_(columns),
      piece_(piece),
      candidates_(std::min(candidates, geometry.k)),
      rows_(searched_rows),
      points_(static_cast<std::size_t>(piece.width)) {
  const auto vectors = static_cast<std::size_t>(piece.code_stride), m = static_cast<std::size_t>(candidates_);
  valid_.resize(vectors * m);
  if (books.residual.empty()) return;
  rest_.resize(static_cast<std::size_t>(piece.width) * m);
  distance_.resize(vectors * m);
  candidate_.resize(vectors * m);
  candidate_residual_.resize(vectors * m);
}

void ColumnSearch::nearest(std::int64_t n, std::int64_t dim, std::int64_t k, const float* book, std::int32_t* codes) {
  const auto& vq = context_.vq();
  const std::int64_t whole = rows_ / dim;
  vq.nearest(context_.exec(), whole, dim, points_.data(), k, book, nullptr, codes, nullptr);
  if (whole == n) return;
  const auto valid = static_cast<std::int32_t>(rows_ - whole * dim);
  vq.nearest(context_.exec(), 1, dim, points_.data() + whole * dim, k, book, &valid, codes + whole, nullptr);
}

void ColumnSearch::greedy_residual(std::int64_t n, const float* main, const float* residual, const std::int32_t* codes,
                                   std::int32_t* residual_codes) {
  const std::int64_t v = geometry_.v;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t d = 0; d < v; ++d) points_[static_cast<std::size_t>(i * v + d)] -= main[codes[i] * v + d];
  nearest(n, v, geometry_.kr, residual, residual_codes);
}

void ColumnSearch::joint(std::int64_t n, const float* main, const float* residual, std::int32_t* codes,
                         std::int32_t* residual_codes) {
  const std::int64_t v = geometry_.v, m = candidates_, whole = rows_ / v;
  const auto& vq = context_.vq();
  std::fill_n(valid_.begin(), n * m, static_cast<std::int32_t>(v));
  if (whole < n) std::fill_n(valid_.begin() + whole * m, m, static_cast<std::int32_t>(rows_ - whole * v));
  const std::int32_t* valid = whole < n ? valid_.data() : nullptr;
  vq.nearest_m(context_.exec(), whole, v, points_.data(), geometry_.k, main, nullptr, m, candidate_.data());
  if (whole < n)
    vq.nearest_m(context_.exec(), 1, v, points_.data() + whole * v, geometry_.k, main, valid_.data() + whole * m, m,
                 candidate_.data() + whole * m);
  float* rest = rest_.data();
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < m; ++j, rest += v) {
      const float* centroid = main + candidate_[static_cast<std::size_t>(i * m + j)] * v;
      for (std::int64_t d = 0; d < v; ++d) rest[d] = points_[static_cast<std::size_t>(i * v + d)] - centroid[d];
    }
  vq.nearest(context_.exec(), n * m, v, rest_.data(), geometry_.kr, residual, valid, candidate_residual_.data(),
             distance_.data());
  for (std::int64_t i = 0; i < n; ++i) {
    std::size_t best = static_cast<std::size_t>(i * m);
    for (std::int64_t j = 1; j < m; ++j) {
      const auto at = static_cast<std::size_t>(i * m + j);
      if (distance_[at] < distance_[best]) best = at;
    }
    codes[i] = candidate_[best];
    residual_codes[i] = candidate_residual_[best];
  }
}

void ColumnSearch::choose(std::int64_t position, const float* target, std::int32_t* codes, std::int32_t* residual_codes,
                          float* quantized) {
  const auto p = static_cast<std::size_t>(position);
  const float inverse = 1.0F / columns_.scale[p], bias = columns_.bias[p];
  for (std::size_t r = 0; r < points_.size(); ++r) points_[r] = (target[r] - bias) * inverse;
  if (geometry_.is_outlier(position)) {
    nearest(core::ceil_div(rows_, geometry_.v0), geometry_.v0, geometry_.k0, books_.outlier.data(), codes);
  } else {
    const std::int64_t v = geometry_.v, n = core::ceil_div(rows_, v), group = geometry_.group_of(position);
    const float* main = books_.main.data() + group * geometry_.k * v;
    const float* residual = books_.residual.empty() ? nullptr : books_.residual.data() + group * geometry_.kr * v;
    if (residual != nullptr && candidates_ > 1) {
      joint(n, main, residual, codes, residual_codes);
    } else {
      nearest(n, v, geometry_.k, main, codes);
      if (residual != nullptr) greedy_residual(n, main, residual, codes, residual_codes);
    }
  }
  decode_column(geometry_, books_, columns_, piece_, position, codes, residual_codes, quantized);
}

}  // namespace voronoi::quant
