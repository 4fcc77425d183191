#include "core/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace voronoi::core {
namespace {

/// SplitMix64 as published (Vigna, public domain reference): a running state, not a counter.
std::uint64_t next_of_reference(std::uint64_t& state) {
  state += 0x9E3779B97F4A7C15ULL;
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

TEST(CounterRandom, IsSplitMix64ByCounter) {
  std::uint64_t state = 1234567;  // published sequence of this seed
  EXPECT_EQ(next_of_reference(state), 6457827717110365317ULL);
  EXPECT_EQ(next_of_reference(state), 3203168211198807973ULL);
  // The key of (seed, stream): two mixes; then the sequence of that key.
  for (const std::uint64_t seed : {0ULL, 1ULL, 42ULL, ~0ULL}) {
    for (const std::uint64_t stream : {0ULL, 1ULL, 12345ULL}) {
      std::uint64_t inner = stream;
      inner = next_of_reference(inner);
      std::uint64_t before = (seed ^ inner) - 0x9E3779B97F4A7C15ULL;
      std::uint64_t key = next_of_reference(before);
      const CounterRandom random(seed, stream);
      for (std::uint64_t i = 0; i < 50; ++i)
        ASSERT_EQ(random.bits(i), next_of_reference(key)) << seed << " " << stream << " " << i;
    }
  }
}

TEST(CounterRandom, ValuesStayForEver) {
  const CounterRandom random(0, 0);
  EXPECT_EQ(random.bits(0), 6235967106033911276ULL);
  EXPECT_EQ(random.bits(1000000), 4214942180275914577ULL);
}

TEST(CounterRandom, UniformIsInTheUnitIntervalAndEven) {
  const CounterRandom random(3, 1);
  constexpr int kDraws = 100000, kBins = 10;
  std::vector<int> bins(kBins);
  double sum = 0;
  for (std::uint64_t i = 0; i < kDraws; ++i) {
    const double u = random.uniform(i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    ++bins[static_cast<std::size_t>(u * kBins)];
  }
  // Five standard deviations.
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  for (const int n : bins) EXPECT_NEAR(n, kDraws / kBins, 5 * std::sqrt(kDraws * 0.1 * 0.9));
}

TEST(CounterRandom, BelowStaysBelowAndReachesAll) {
  const CounterRandom random(3, 2);
  std::set<std::uint64_t> seen;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    const std::uint64_t value = random.below(i, 7);
    ASSERT_LT(value, 7U);
    seen.insert(value);
    ASSERT_EQ(random.below(i, 1), 0U);
    ASSERT_LT(random.below(i, ~0ULL), ~0ULL);
  }
  EXPECT_EQ(seen.size(), 7U);
}

TEST(CounterRandom, SeedsAndStreamsDiffer) {
  std::set<std::uint64_t> seen;
  for (std::uint64_t seed = 0; seed < 30; ++seed)
    for (std::uint64_t stream = 0; stream < 30; ++stream) seen.insert(CounterRandom(seed, stream).bits(0));
  EXPECT_EQ(seen.size(), 900U);
}

}  // namespace
}  // namespace voronoi::core
