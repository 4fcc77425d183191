#include "tune/stripe_sums.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/random.h"

namespace voronoi::tune {
namespace {

std::vector<float> gradient(std::int64_t stripe) {
  const core::CounterRandom random(5, static_cast<std::uint64_t>(stripe));
  std::vector<float> values(40);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(std::exp(20 * (random.uniform(i) - 0.5)) * (random.uniform(i + 100) - 0.5));
  return values;
}

TEST(StripeSums, AreThoseOfATreeOverTheStripes) {
  StripeSums sums;
  for (std::int64_t stripe = 0; stripe < 5; ++stripe) sums.add(stripe, gradient(stripe));
  const std::vector<float> total = sums.total();
  EXPECT_TRUE(sums.empty());
  for (std::size_t i = 0; i < total.size(); ++i) {
    const float left = (gradient(0)[i] + gradient(1)[i]) + (gradient(2)[i] + gradient(3)[i]);
    EXPECT_EQ(total[i], left + gradient(4)[i]) << i;
  }
}

TEST(StripeSums, DoNotDependOnWhoseTurnItIs) {
  StripeSums in_order, backwards;
  for (std::int64_t stripe = 0; stripe < 7; ++stripe) {
    in_order.add(stripe, gradient(stripe));
    backwards.add(6 - stripe, gradient(6 - stripe));
  }
  EXPECT_EQ(in_order.total(), backwards.total());
}

TEST(StripeSums, EmptyOnesAreZeros) {
  StripeSums sums;
  sums.add(0, {});
  sums.add(1, gradient(1));
  EXPECT_EQ(sums.total(), gradient(1));
  sums.add(0, {});
  EXPECT_TRUE(sums.total().empty());
}

}  // namespace
}  // namespace voronoi::tune
