#include "tune/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace voronoi::tune {
namespace {

std::vector<Segment> two_segments() {
  return {{"layer", "codebook", Kind::codebook, 0, 3, 2.0}, {"norm", {}, Kind::norm, 3, 2, 0.5}};
}

TEST(Optimizer, FirstStepMovesEachNumberByItsRateAgainstTheGradient) {
  core::ThreadPool pool(1);
  Adam adam;
  std::vector<float> values{1, 1, 1, 1, 1};
  step(pool, two_segments(), 0.01, std::vector<float>{5, -0.25F, 0, 3, -3}, adam, values);
  EXPECT_NEAR(values[0], 1 - 0.01 * 2, 1e-6);
  EXPECT_NEAR(values[1], 1 + 0.01 * 2, 1e-6);
  EXPECT_EQ(values[2], 1);
  EXPECT_NEAR(values[3], 1 - relative_rate(Kind::norm, 0.01) * 0.5, 1e-6);
  EXPECT_NEAR(values[4], 1 + relative_rate(Kind::norm, 0.01) * 0.5, 1e-6);
}

TEST(Optimizer, FollowsAdamInDoublePrecision) {
  core::ThreadPool pool(1);
  Adam adam;
  const std::vector<Segment> segments{{"layer", "codebook", Kind::codebook, 0, 1, 1.0}};
  std::vector<float> values{0.5F};
  double value = 0.5, m = 0, v = 0;
  for (int i = 1; i <= 40; ++i) {
    const double gradient = std::sin(static_cast<double>(i)) + value;
    m = 0.9 * m + 0.1 * gradient;
    v = 0.95 * v + 0.05 * gradient * gradient;
    value -= 0.02 * (m / (1 - std::pow(0.9, i))) / (std::sqrt(v / (1 - std::pow(0.95, i))) + 1e-8);
    step(pool, segments, 0.02, std::vector<float>{static_cast<float>(gradient)}, adam, values);
    ASSERT_NEAR(values[0], value, 1e-5) << i;
  }
}

TEST(Optimizer, ThreadsChangeNothing) {
  const auto run = [](int n_threads) {
    core::ThreadPool pool(n_threads);
    Adam adam;
    const std::vector<Segment> segments{{"layer", "codebook", Kind::codebook, 0, 300000, 1.0}};
    std::vector<float> values(300000, 1), gradient(values.size());
    for (int i = 0; i < 3; ++i) {
      for (std::size_t k = 0; k < values.size(); ++k)
        gradient[k] = std::sin(static_cast<float>(k) * 0.7F + static_cast<float>(i));
      step(pool, segments, 0.01, gradient, adam, values);
    }
    return values;
  };
  EXPECT_EQ(run(1), run(3));
}

TEST(Optimizer, ScheduleRisesThenFallsToItsLeast) {
  EXPECT_NEAR(schedule(0, 100), 0.2, 1e-9);
  EXPECT_NEAR(schedule(4, 100), 0.05 + 0.95 * 0.5 * (1 + std::cos(0.04 * std::acos(-1.0))), 1e-9);
  for (int i = 5; i < 100; ++i) EXPECT_LT(schedule(i, 100), schedule(i - 1, 100));
  EXPECT_NEAR(schedule(99, 100), 0.05, 1e-3);
  EXPECT_GT(schedule(0, 1), 0);
}

TEST(Optimizer, DefaultRateFallsWithBitsAndWidth) {
  EXPECT_NEAR(default_learning_rate(2, 576), 4e-3, 1e-12);
  EXPECT_NEAR(default_learning_rate(4, 576), 1e-3, 1e-12);
  EXPECT_NEAR(default_learning_rate(2, 4 * 576), 2e-3, 1e-12);
  EXPECT_NEAR(default_learning_rate(2, 64), 4e-3, 1e-12);
}

}  // namespace
}  // namespace voronoi::tune
