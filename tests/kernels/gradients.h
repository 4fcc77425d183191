// What tests of derivatives share: definitions in fp64 and differences of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <ostream>
#include <random>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/kernels.h"
#include "support/attention_case.h"

namespace voronoi::kernels {

using Doubles = std::vector<double>;

using test::AttentionCase;

/// fused: q, k and v are the columns of one matrix; else rows have room between them.
inline AttentionShape shape_of(const AttentionCase& c, bool fused) {
  AttentionShape shape = shape_of(c);
  shape.scale = 1.5F / std::sqrt(static_cast<float>(c.head_dim));
  shape.ld_q = fused ? (c.n_heads + 2 * c.n_kv_heads) * c.head_dim : c.n_heads * c.head_dim + 1;
  shape.ld_kv = fused ? shape.ld_q : c.n_kv_heads * c.head_dim + 3;
  shape.ld_out = c.n_heads * c.head_dim + 2;
  return shape;
}

inline std::vector<float> random_floats(std::int64_t n, std::uint32_t seed, float deviation = 1.0F) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(engine);
  return values;
}

inline Doubles widened(const std::vector<float>& x) { return Doubles(x.begin(), x.end()); }

inline double inner(const std::vector<float>& d_out, const Doubles& out) {
  double sum = 0;
  for (std::size_t i = 0; i < out.size(); ++i) sum += static_cast<double>(d_out[i]) * out[i];
  return sum;
}

/// d loss / d x, by four points.
inline Doubles differences(const Doubles& x, const std::function<double(const Doubles&)>& loss) {
  constexpr double kStep = 1e-3;
  Doubles gradient, at = x;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto moved = [&](double by) {
      at[i] = x[i] + by;
      return loss(at);
    };
    gradient.push_back((8 * (moved(kStep) - moved(-kStep)) - (moved(2 * kStep) - moved(-2 * kStep))) / (12 * kStep));
    at[i] = x[i];
  }
  return gradient;
}

/// Within `tolerance` of the largest, which counts as `least` at least.
inline void expect_close(const std::vector<float>& actual, const Doubles& expected, double tolerance = 2e-6,
                         double least = 1e-30) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = least;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < actual.size(); ++i)
    ASSERT_NEAR(actual[i], expected[i], tolerance * largest) << "at " << i << ", largest " << largest;
}

class NnGradient : public ::testing::Test {
 protected:
  core::ThreadPool pool_{2}, single_pool_{1};
  Exec exec_{&pool_, nullptr}, single_{&single_pool_, nullptr};
  const NnGradientKernels& nn_ = cpu().nn_gradient;
};

}  // namespace voronoi::kernels
