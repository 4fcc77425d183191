#include "calib/weight_limit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace voronoi::calib {
namespace {

double worth(const std::vector<float>& weights, float limit) {
  double sum = 0, squares = 0;
  for (const float weight : weights) {
    const auto limited = static_cast<double>(std::min(weight, limit));
    sum += limited;
    squares += limited * limited;
  }
  return sum * sum / squares;
}

WeightCounts counts_of(const std::vector<float>& weights) {
  WeightCounts counts;
  counts.add(weights);
  return counts;
}

/// Log-normal: heavy tails, as gradients have.
std::vector<float> heavy(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> weights(n);
  for (float& weight : weights) weight = 1e-9F * std::exp(3 * normal(engine));
  return weights;
}

TEST(WeightLimit, IsTheLargestAtWhichEnoughRowsCount) {
  for (const std::uint64_t seed : {1U, 2U, 3U}) {
    const std::vector<float> weights = heavy(4000, seed);
    for (const double wanted : {200.0, 1000.0}) {
      ASSERT_LT(worth(weights, INFINITY), wanted);
      const float limit = counts_of(weights).limit(wanted).most;
      // To half an octave, and the middles of bins for their weights.
      EXPECT_GT(worth(weights, limit), 0.9 * wanted);
      EXPECT_LT(worth(weights, 2 * limit), 1.1 * wanted);
    }
  }
}

TEST(WeightLimit, IsNoneWhereEnoughCountOrThereAreTooFew) {
  EXPECT_EQ(counts_of(std::vector<float>(100, 3.0F)).limit(90).most, INFINITY);
  EXPECT_EQ(counts_of(std::vector<float>(100, 3.0F)).limit(101).most, INFINITY);
  EXPECT_EQ(counts_of({}).limit(10).most, INFINITY);
  EXPECT_EQ(counts_of({0.0F, 0.0F}).limit(10).most, INFINITY);
}

TEST(WeightLimit, TakesTheRowThatOwnsTheSumDown) {
  std::vector<float> weights(1000, 1e-6F);
  weights[0] = 1;
  const WeightLimit limit = counts_of(weights).limit(500);
  EXPECT_LT(limit.most, 1e-4F);
  EXPECT_GT(limit.most, 1e-6F);
  float sum = 0;
  for (const float weight : weights) sum += limit.of(weight);
  EXPECT_NEAR(sum, 1.001F, 0.3F);
}

TEST(WeightLimit, DoesNotDependOnOrderOrDivision) {
  const std::vector<float> one = heavy(500, 1), other = heavy(700, 2);
  WeightCounts together = counts_of(one), apart = counts_of(other);
  together.add(other);
  apart.add(counts_of(one));
  EXPECT_EQ(together.limit(150).most, apart.limit(150).most);
  EXPECT_EQ(together.limit(150).scale, apart.limit(150).scale);
}

TEST(WeightLimit, AsksForFourRowsAnInputButNotForMostOfThem) {
  EXPECT_EQ(wanted_rows(100, 1'000'000), 400);
  EXPECT_EQ(wanted_rows(100, 800), 100);
}

}  // namespace
}  // namespace voronoi::calib
