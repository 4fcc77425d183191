#include "quant/gptvq/book_fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <numeric>

#include "backend/device.h"
#include "core/index.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr std::int64_t kMostColumns = 4;  // of a vector
// Distances of a chunk, whose sums are made by one thread, and most chunks of a codebook: of the shape alone, as the
// order of the sums is.
constexpr std::int64_t kChunkDistances = 1 << 20, kMostChunks = 8;

template <int kN>
constexpr std::size_t kExtent = static_cast<std::size_t>(kN);  // of an array

/// A symmetric matrix's lower triangle and a right-hand side, of one centroid.
template <int kD>
struct Normal {
  static constexpr int kEntries = kD * (kD + 1) / 2;
  double matrix[kExtent<kEntries>];
  double side[kExtent<kD>];
};

/// The c with matrix c = side, by Cholesky; false, and nothing of use, where the matrix is not positive definite.
template <int kD>
bool solve(const Normal<kD>& normal, double (&c)[kExtent<kD>]) {
  double l[kExtent<kD>][kExtent<kD>];
  for (int i = 0; i < kD; ++i)
    for (int j = 0; j <= i; ++j) {
      const double entry = normal.matrix[i * (i + 1) / 2 + j];
      double value = entry;
      for (int m = 0; m < j; ++m) value -= l[i][m] * l[j][m];
      // What is left of a direction after roundings is none.
      if (i == j && !(value > 1e-12 * entry)) return false;
      l[i][j] = i == j ? std::sqrt(value) : value / l[j][j];
    }
  for (int i = 0; i < kD; ++i) {
    c[i] = normal.side[i];
    for (int j = 0; j < i; ++j) c[i] -= l[i][j] * c[j];
    c[i] /= l[i][i];
  }
  bool finite = true;
  for (int i = kD - 1; i >= 0; --i) {
    for (int j = i + 1; j < kD; ++j) c[i] -= l[j][i] * c[j];
    c[i] /= l[i][i];
    finite = finite && std::isfinite(c[i]);
  }
  return finite;
}

/// Sums of the columns [begin, end).
template <int kD>
struct Chunk {
  std::int64_t begin = 0, end = 0;
  std::int64_t moved = 0;
  std::vector<Normal<kD>> sums;  ///< [k]
  std::vector<float> book;       ///< of a column
};

template <int kD>
class BookFitter {
 public:
  BookFitter(const BookPoints& points, std::vector<float> start, const BookRule& rule)
      : points_(points),
        rule_(rule),
        k_(static_cast<std::int64_t>(start.size()) / kD),
        chosen_(index(points.columns * points.lanes), -1) {
    columns_ = by_column(kD, start);
    const std::int64_t n_chunks = std::clamp<std::int64_t>(points.columns * points.lanes * k_ / kChunkDistances, 1,
                                                           std::min(kMostChunks, points.columns));
    chunks_.resize(index(n_chunks));
    for (std::int64_t c = 0; c < n_chunks; ++c) {
      chunks_[index(c)].begin = points.columns * c / n_chunks;
      chunks_[index(c)].end = points.columns * (c + 1) / n_chunks;
    }
    for (std::int64_t j = 0; j < points.columns; ++j)
      for (std::int64_t row = 0; row < points.rows; ++row) {
        double square = 0;
        for (int i = 0; i < kD; ++i) {
          const auto value = static_cast<double>(points.column(j)[i * points.lanes + row]);
          square += value * value;
        }
        norm_ += mass(j, row) * square;
      }
  }

  BookFit run(const ForEach& for_each) {
    for (int step = 0; step < rule_.most_steps; ++step) {
      for_each(std::ssize(chunks_), [&](std::int64_t c) { choose(chunks_[index(c)]); });
      const bool moved = std::any_of(chunks_.begin(), chunks_.end(), [](const auto& c) { return c.moved > 0; });
      if (!moved) break;
      for (std::size_t c = 1; c < chunks_.size(); ++c)
        for (std::size_t i = 0; i < index(k_); ++i) {
          for (int e = 0; e < Normal<kD>::kEntries; ++e) chunks_[0].sums[i].matrix[e] += chunks_[c].sums[i].matrix[e];
          for (int e = 0; e < kD; ++e) chunks_[0].sums[i].side[e] += chunks_[c].sums[i].side[e];
        }
      const double before = fit_.objective.empty() ? norm_ : fit_.objective.back(), now = move_centroids();
      fit_.objective.push_back(now);
      if (fit_.objective.size() > 1 && before - now < rule_.tolerance * before) break;
    }
    fit_.centroids.resize(columns_.size());
    for (std::int64_t i = 0; i < k_; ++i)
      for (std::int64_t e = 0; e < kD; ++e) fit_.centroids[index(i * kD + e)] = columns_[index(e * k_ + i)];
    return std::move(fit_);
  }

 private:
  double mass(std::int64_t j, std::int64_t row) const {
    return points_.mass.empty() ? 1.0 : static_cast<double>(points_.mass[index(j * points_.lanes + row)]);
  }

  void choose(Chunk<kD>& chunk) {
    chunk.sums.assign(index(k_), Normal<kD>{});
    chunk.book.resize(index((kD + 1) * k_));
    chunk.moved = 0;
    std::vector<std::int32_t> nearest(index(points_.lanes));
    for (std::int64_t j = chunk.begin; j < chunk.end; ++j) {
      const float* metric = points_.metric + j * kD * kD;
      transform_book(kD, k_, columns_.data(), metric, chunk.book.data());
      kernels::nearest_by_column(points_.rows, kD, points_.column(j), points_.lanes, k_, chunk.book.data(),
                                 nearest.data());
      std::int32_t* chosen = chosen_.data() + j * points_.lanes;
      for (std::int64_t row = 0; row < points_.rows; ++row) chunk.moved += chosen[row] != nearest[index(row)];
      std::copy_n(nearest.begin(), points_.rows, chosen);
      add(j, metric, chosen, chunk.sums);
    }
  }

  /// The column's points to the sums of their centroids: m T'T, and m T' (T x).
  void add(std::int64_t j, const float* metric, const std::int32_t* chosen, std::vector<Normal<kD>>& sums) const {
    double t[kExtent<kD>][kExtent<kD>];
    for (int i = 0; i < kD; ++i)
      for (int l = 0; l < kD; ++l) t[i][l] = l <= i ? static_cast<double>(metric[i * kD + l]) : 0.0;
    double square[kExtent<Normal<kD>::kEntries>] = {};
    for (int a = 0; a < kD; ++a)
      for (int b = 0; b <= a; ++b)
        for (int i = a; i < kD; ++i) square[a * (a + 1) / 2 + b] += t[i][a] * t[i][b];
    const float* values = points_.column(j);
    for (std::int64_t row = 0; row < points_.rows; ++row) {
      const double m = mass(j, row);
      Normal<kD>& sum = sums[index(chosen[row])];
      for (int e = 0; e < Normal<kD>::kEntries; ++e) sum.matrix[e] += m * square[e];
      for (int i = 0; i < kD; ++i) {
        const double weighted = m * static_cast<double>(values[i * points_.lanes + row]);
        for (int a = 0; a <= i; ++a) sum.side[a] += weighted * t[i][a];
      }
    }
  }

  /// To the minimum of the sums in the first chunk; returns the objective there.
  double move_centroids() {
    double objective = norm_;
    fit_.unused = 0;
    for (std::int64_t i = 0; i < k_; ++i) {
      const Normal<kD>& normal = chunks_[0].sums[index(i)];
      double c[kExtent<kD>] = {};
      const bool empty =
          std::all_of(std::begin(normal.matrix), std::end(normal.matrix), [](double v) { return v == 0; });
      fit_.unused += empty ? 1 : 0;
      if (empty ? rule_.empty_to_zero : solve<kD>(normal, c))
        for (int e = 0; e < kD; ++e) columns_[index(e * k_ + i)] = static_cast<float>(c[e]);
      if (empty) continue;
      const auto value = [&](int e) { return static_cast<double>(columns_[index(e * k_ + i)]); };
      for (int a = 0; a < kD; ++a) {
        objective -= 2 * value(a) * normal.side[a];
        for (int b = 0; b <= a; ++b)
          objective += (a == b ? 1 : 2) * value(a) * value(b) * normal.matrix[a * (a + 1) / 2 + b];
      }
    }
    return objective;
  }

  const BookPoints& points_;
  const BookRule& rule_;
  std::int64_t k_;
  std::vector<std::int32_t> chosen_;  // [columns, lanes]
  std::vector<float> columns_;        // the centroids, [d, k]
  std::vector<Chunk<kD>> chunks_;
  double norm_ = 0;  // sum of m |T x|^2
  BookFit fit_;
};

}  // namespace

BookPoints::BookPoints(std::int64_t vector_columns, std::int64_t n_columns, std::int64_t n_rows)
    : d(vector_columns),
      columns(n_columns),
      rows(n_rows),
      lanes(kernels::host_lanes(n_rows)),
      values(index(columns * d * lanes), 0.0F) {}

void BookPoints::transform() {
  for (std::int64_t j = 0; j < columns; ++j) {
    const float* t = metric + j * d * d;
    // From the last row of T on: it alone looks at all values.
    for (std::int64_t i = d - 1; i >= 0; --i) {
      float* target = column(j) + i * lanes;
      for (std::int64_t row = 0; row < rows; ++row) target[row] *= t[i * d + i];
      for (std::int64_t l = 0; l < i; ++l) {
        const float* source = column(j) + l * lanes;
        for (std::int64_t row = 0; row < rows; ++row) target[row] += t[i * d + l] * source[row];
      }
    }
  }
}

std::vector<float> mahalanobis_start(const BookPoints& p, std::int64_t k) {
  const std::int64_t n = p.columns * p.rows;
  const auto value = [&](std::int64_t point, std::int64_t i) {
    return static_cast<double>(p.column(point / p.rows)[i * p.lanes + point % p.rows]);
  };
  std::array<double, kMostColumns> mean{};
  for (std::int64_t point = 0; point < n; ++point)
    for (std::int64_t i = 0; i < p.d; ++i) mean[index(i)] += value(point, i);
  for (double& sum : mean) sum /= static_cast<double>(n);
  // Sigma, then L with Sigma = L L', then the distances |L^-1 (x - mean)|^2.
  double l[kMostColumns][kMostColumns] = {};
  for (std::int64_t point = 0; point < n; ++point)
    for (std::int64_t i = 0; i < p.d; ++i)
      for (std::int64_t j = 0; j <= i; ++j)
        l[i][j] += (value(point, i) - mean[index(i)]) * (value(point, j) - mean[index(j)]);
  double trace = 0;
  for (std::int64_t i = 0; i < p.d; ++i) trace += l[i][i];
  for (std::int64_t i = 0; i < p.d; ++i) l[i][i] += 1e-9 * trace;
  for (std::int64_t i = 0; i < p.d; ++i)
    for (std::int64_t j = 0; j <= i; ++j) {
      for (std::int64_t m = 0; m < j; ++m) l[i][j] -= l[i][m] * l[j][m];
      l[i][j] = i == j ? std::sqrt(std::max(l[i][j], 0.0)) : l[j][j] > 0 ? l[i][j] / l[j][j] : 0;
    }
  std::vector<float> distance(index(n));
  for (std::int64_t point = 0; point < n; ++point) {
    std::array<double, kMostColumns> y{};
    double square = 0;
    for (std::int64_t i = 0; i < p.d; ++i) {
      y[index(i)] = value(point, i) - mean[index(i)];
      for (std::int64_t j = 0; j < i; ++j) y[index(i)] -= l[i][j] * y[index(j)];
      y[index(i)] = l[i][i] > 0 ? y[index(i)] / l[i][i] : 0;
      square += y[index(i)] * y[index(i)];
    }
    distance[index(point)] = static_cast<float>(square);
  }
  std::vector<std::int32_t> order(index(n));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    const float at_a = distance[index(a)], at_b = distance[index(b)];
    return at_a < at_b || (at_a == at_b && a < b);
  });
  std::vector<float> start;
  for (std::int64_t i = 0; i < k; ++i) {
    const double place =
        static_cast<double>(i) * static_cast<double>(n - 1) / static_cast<double>(std::max<std::int64_t>(1, k - 1));
    const std::int32_t point = order[index(std::llround(place))];
    for (std::int64_t e = 0; e < p.d; ++e) start.push_back(static_cast<float>(value(point, e)));
  }
  return start;
}

void transform_book(std::int64_t d, std::int64_t k, const float* centroids, const float* metric, float* book) {
  float* half = book + d * k;
  std::fill_n(half, k, 0.0F);
  for (std::int64_t i = 0; i < d; ++i) {
    float* target = book + i * k;
    for (std::int64_t j = 0; j < k; ++j) target[j] = metric[i * d] * centroids[j];
    for (std::int64_t l = 1; l <= i; ++l)
      for (std::int64_t j = 0; j < k; ++j) target[j] += metric[i * d + l] * centroids[l * k + j];
    for (std::int64_t j = 0; j < k; ++j) half[j] += 0.5F * target[j] * target[j];
  }
}

std::vector<float> by_column(std::int64_t d, std::span<const float> centroids) {
  const std::int64_t k = std::ssize(centroids) / d;
  std::vector<float> columns(centroids.size());
  for (std::int64_t j = 0; j < k; ++j)
    for (std::int64_t i = 0; i < d; ++i) columns[index(i * k + j)] = centroids[index(j * d + i)];
  return columns;
}

BookFit fit_book(const ForEach& for_each, const BookPoints& points, std::vector<float> start, const BookRule& rule) {
  switch (points.d) {
    case 1:
      return BookFitter<1>(points, std::move(start), rule).run(for_each);
    case 2:
      return BookFitter<2>(points, std::move(start), rule).run(for_each);
    default:
      return BookFitter<4>(points, std::move(start), rule).run(for_each);
  }
}

}  // namespace voronoi::quant
