// A layer with what makes real ones hard: correlated inputs (spectrum 1/i), columns of very different size in inputs
// and weights.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include "core/random.h"

namespace voronoi::test {

struct SyntheticLayer {
  std::int64_t out_features = 0, in_features = 0;
  std::vector<float> weight;  ///< [out, in]
  std::vector<float> lower;   ///< packed lower triangle of E[x x^T]
};

struct SyntheticSpread {
  double weight_columns = 0.2;  ///< lognormal sigma of the columns of the weight
  double weight_rows = 0.3;
  double inputs = 0.7;  ///< of the inputs' size, the square root of H's diagonal
};

inline SyntheticLayer make_synthetic_layer(std::int64_t out_features, std::int64_t in_features, std::uint64_t seed,
                                           SyntheticSpread spread = {}) {
  const core::CounterRandom random(seed, 0x51);
  std::uint64_t counter = 0;
  const auto normal = [&] {
    const double radius = std::sqrt(-2 * std::log(1 - random.uniform(counter))),
                 angle = 2 * std::numbers::pi * random.uniform(counter + 1);
    counter += 2;
    return radius * std::cos(angle);
  };
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  SyntheticLayer layer{out_features, in_features, {}, {}};
  const std::int64_t n = in_features;

  std::vector<double> column(at(n)), row(at(out_features)), size(at(n));
  for (double& value : column) value = std::exp(spread.weight_columns * normal());
  for (double& value : row) value = std::exp(spread.weight_rows * normal());
  for (double& value : size) value = std::exp(spread.inputs * normal());
  layer.weight.resize(at(out_features * n));
  for (std::int64_t r = 0; r < out_features; ++r)
    for (std::int64_t c = 0; c < n; ++c)
      layer.weight[at(r * n + c)] = static_cast<float>(0.02 * row[at(r)] * column[at(c)] * normal());

  // H = D (sum_i b_i b_i^T / i) D with Gaussian b_i.
  std::vector<float> factor(at(n * n));
  for (std::int64_t c = 0; c < n; ++c)
    for (std::int64_t i = 0; i < n; ++i)
      factor[at(c * n + i)] = static_cast<float>(size[at(c)] * normal() / std::sqrt(static_cast<double>(i + 1)));
  layer.lower.reserve(at(n * (n + 1) / 2));
  for (std::int64_t r = 0; r < n; ++r)
    for (std::int64_t c = 0; c <= r; ++c) {
      // Four sums side by side: quick without reordering by the compiler.
      double sums[4] = {0, 0, 0, 0};
      const float* a = factor.data() + r * n;
      const float* b = factor.data() + c * n;
      for (std::int64_t i = 0; i < n; ++i) sums[i % 4] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
      layer.lower.push_back(static_cast<float>(sums[0] + sums[1] + sums[2] + sums[3]));
    }
  return layer;
}

}  // namespace voronoi::test
