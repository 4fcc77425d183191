#include "quant/aqlm/additive_fit.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "core/index.h"
#include "core/types.h"

namespace voronoi::quant {

using core::index;

namespace {

// A step that lowers the loss by less than this share of it is the last of a fit.
constexpr double kLeastFitGain = 5e-4;
constexpr int kMostFitSteps = 30;

constexpr double kDescentRate = 1e-4, kSquareDecay = 0.95, kDescentEpsilon = 1e-8;

double scalar_product(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// The change of the codebooks that is left to make, from product() at the start. Overwrites matrix() and product().
std::vector<double> book_change(AdditiveRows& rows, double loss, std::int64_t& steps) {
  std::vector<double> rest = rows.collect(false), inverse = rows.collect(true);
  const std::size_t n = rest.size();
  std::vector<double> change(n, 0.0), direction(n, 0.0), conditioned(n);
  // A centroid that nothing depends on stays as it is.
  for (double& value : inverse) value = value > 0 ? 1 / value : 0;
  double before = 0;
  for (int step = 0; step < kMostFitSteps; ++step) {
    for (std::size_t i = 0; i < n; ++i) conditioned[i] = rest[i] * inverse[i];
    const double now = scalar_product(rest, conditioned);
    if (!(now > 0) || !std::isfinite(now)) break;
    const double beta = step == 0 ? 0.0 : now / before;
    for (std::size_t i = 0; i < n; ++i) direction[i] = conditioned[i] + beta * direction[i];
    before = now;
    rows.team().check_stop();
    rows.expand(direction, true);
    ++steps;
    const std::vector<double> curved = rows.collect(false);
    const double curvature = scalar_product(direction, curved);
    if (!(curvature > 0) || !std::isfinite(curvature)) break;
    const double length = now / curvature;
    for (std::size_t i = 0; i < n; ++i) {
      change[i] += length * direction[i];
      rest[i] -= length * curved[i];
    }
    const double gain = length * now;
    loss -= gain;
    if (gain < kLeastFitGain * loss) break;
  }
  return change;
}

/// The best scale of each row for the codebooks as they are, of those that can be stored the nearer one; a row whose
/// loss would not fall keeps its own.
void fit_scales(AdditiveRows& rows) {
  const std::int64_t n = rows.extents().in_features;
  const std::vector<double> books(rows.numbers.books.begin(), rows.numbers.books.end());
  rows.expand(books, false);
  rows.pool().parallel_for(rows.rows(), [&](std::int64_t row) {
    const float *y = rows.matrix().data() + row * n, *yh = rows.product().data() + row * n,
                *w = rows.weight().data() + row * n;
    double square = 0, cross = 0;
    for (std::int64_t c = 0; c < n; ++c) {
      square += static_cast<double>(y[c]) * static_cast<double>(yh[c]);
      cross += static_cast<double>(w[c]) * static_cast<double>(yh[c]);
    }
    float& scale = rows.numbers.scale[index(row)];
    if (!(square > 0) || scale == 0) return;
    const float best = core::round_to(rows.extents().dtype, static_cast<float>(cross / square));
    const auto loss = [&](float s) { return static_cast<double>(s) * (static_cast<double>(s) * square - 2 * cross); };
    // A scale of 0 or of another sign would make something else of the row's codes.
    if (best > 0 && std::isfinite(best) && best <= core::kLargestF16 && loss(best) < loss(scale)) scale = best;
  });
}

}  // namespace

std::vector<double> fit_numbers(AdditiveRows& rows, std::vector<double> losses, std::int64_t& steps) {
  const double before = rows.sum_of_rows(losses);
  if (!(before > 0)) return losses;
  const std::vector<float> books = rows.numbers.books, scale = rows.numbers.scale;
  const std::vector<double> change = book_change(rows, before, steps);
  for (std::size_t i = 0; i < change.size(); ++i)
    rows.numbers.books[i] = static_cast<float>(static_cast<double>(books[i]) + change[i]);
  rows.round_numbers();
  fit_scales(rows);
  std::vector<double> fitted = rows.evaluate();
  if (rows.sum_of_rows(fitted) < before) return fitted;
  rows.numbers.books = books;
  rows.numbers.scale = scale;
  return rows.evaluate();
}

AdditiveDescent::AdditiveDescent(const AdditiveRows& rows) {
  const auto zeros = [](std::int64_t n) {
    return Moments{std::vector<double>(index(n)), std::vector<double>(index(n))};
  };
  books_ = zeros(rows.unknowns());
  scale_ = zeros(rows.rows());
}

void AdditiveDescent::step(Moments& moments, const std::vector<double>& gradient, double share,
                           std::vector<float>& values) {
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    moments.square[i] = kSquareDecay * moments.square[i] + (1 - kSquareDecay) * gradient[i] * gradient[i];
    moments.largest[i] = std::max(moments.largest[i], moments.square[i]);
    const double by = std::sqrt(moments.largest[i] / share) + kDescentEpsilon;
    values[i] = static_cast<float>(static_cast<double>(values[i]) - kDescentRate * gradient[i] / by);
  }
}

std::vector<double> AdditiveDescent::run(AdditiveRows& rows, int steps) {
  const std::int64_t n = rows.extents().in_features, g = rows.extents().in_group;
  const double by = -2 / static_cast<double>(rows.extents().out_features);
  std::vector<double> losses;
  for (int i = 0; i < steps; ++i) {
    rows.team().check_stop();
    std::vector<double> gradient = rows.collect(false), of_scale(index(rows.rows()));
    for (double& value : gradient) value *= by;
    rows.pool().parallel_for(rows.rows(), [&](std::int64_t row) {
      const float* product = rows.product().data() + row * n;
      double sum = 0;
      rows.visit_row(row, [&](std::int64_t column, std::int64_t place) {
        for (std::int64_t c = 0; c < g; ++c)
          sum += static_cast<double>(rows.numbers.books[index(place + c)]) * static_cast<double>(product[column + c]);
      });
      of_scale[index(row)] = by * sum;
    });
    const double share = 1 - std::pow(kSquareDecay, ++taken_);
    step(books_, gradient, share, rows.numbers.books);
    step(scale_, of_scale, share, rows.numbers.scale);
    losses = rows.evaluate();
  }
  return losses;
}

}  // namespace voronoi::quant
