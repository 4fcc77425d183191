#include "planning/allocation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "core/error.h"

namespace voronoi::planning {
namespace {

using ::testing::ElementsAre;

/// Of all choices within the budget the least loss.
double best_by_trial(const std::vector<Share>& shares, std::int64_t budget, std::size_t from = 0) {
  if (from == shares.size()) return budget >= 0 ? 0 : std::numeric_limits<double>::infinity();
  double best = std::numeric_limits<double>::infinity();
  for (const Candidate& candidate : shares[from].candidates)
    best = std::min(best, candidate.loss_rise + best_by_trial(shares, budget - candidate.stored_bits, from + 1));
  return best;
}

std::vector<Share> random_shares(std::uint32_t seed) {
  std::mt19937 draw(seed);
  std::vector<Share> shares(6);
  for (Share& share : shares) {
    const double harm = std::exp(std::uniform_real_distribution<>(-3, 3)(draw));
    const std::int64_t weights = std::uniform_int_distribution<>(20, 200)(draw);
    for (std::int64_t bits = 1; bits <= 5; ++bits)
      share.candidates.push_back(
          {bits * weights + static_cast<std::int64_t>(draw() % 30),
           harm * std::exp(-1.3 * static_cast<double>(bits)) * std::uniform_real_distribution<>(0.7, 1.3)(draw)});
    std::shuffle(share.candidates.begin(), share.candidates.end(), draw);
  }
  return shares;
}

std::int64_t largest_step(const std::vector<Share>& shares) {
  std::int64_t largest = 0;
  for (const Share& share : shares)
    for (const Candidate& a : share.candidates)
      for (const Candidate& b : share.candidates) largest = std::max(largest, a.stored_bits - b.stored_bits);
  return largest;
}

TEST(Allocation, GivesBitsToWhatIsHarmedMost) {
  const std::vector<Candidate> robust{{200, 0.4}, {300, 0.1}, {400, 0.025}}, fragile{{200, 40}, {300, 10}, {400, 2.5}};
  const auto chosen = allocate({{"robust", robust}, {"fragile", fragile}}, 600);
  ASSERT_TRUE(chosen);
  EXPECT_THAT(chosen->choice, ElementsAre(0, 2));
  EXPECT_EQ(chosen->stored_bits, 600);
  EXPECT_DOUBLE_EQ(chosen->loss_rise, 2.9);
  EXPECT_DOUBLE_EQ(chosen->worth_of_a_bit, 0.075);
}

TEST(Allocation, TakesTheLeastWhereNothingElseFitsAndNothingWhereThatIsTooMuch) {
  const std::vector<Share> shares{{"a", {{300, 1}, {200, 4}}}, {"b", {{200, 4}}}};
  EXPECT_THAT(allocate(shares, 400)->choice, ElementsAre(1, 0));
  EXPECT_EQ(allocate(shares, 400)->worth_of_a_bit, std::numeric_limits<double>::infinity());
  EXPECT_FALSE(allocate(shares, 399));
  EXPECT_THAT(allocate(shares, 1 << 20)->choice, ElementsAre(0, 0));
  EXPECT_EQ(allocate(shares, 1 << 20)->worth_of_a_bit, 0);
}

TEST(Allocation, PassesByWhatCostsMoreAndHelpsNoMoreAndWhatIsOffTheHull) {
  // 250 bits lie above the line from 200 to 400, 300 cost more than 250 for a greater loss.
  const std::vector<Share> shares{{"a", {{200, 10}, {250, 9.5}, {300, 9.6}, {400, 1}}}};
  EXPECT_THAT(allocate(shares, 400)->choice, ElementsAre(3));
  EXPECT_THAT(allocate(shares, 399)->choice, ElementsAre(1)) << "what is left goes to the step that fits";
  EXPECT_THAT(allocate(shares, 249)->choice, ElementsAre(0));
}

TEST(Allocation, IsTheOptimumOfEveryBudgetThatItReachesExactlyAndWithinAStepOfItElsewhere) {
  for (std::uint32_t seed = 1; seed <= 20; ++seed) {
    const std::vector<Share> shares = random_shares(seed);
    for (const std::int64_t budget : {900, 1300, 1700, 2400, 4000}) {
      const auto chosen = allocate(shares, budget);
      const double best = best_by_trial(shares, budget);
      ASSERT_EQ(chosen.has_value(), std::isfinite(best)) << seed;
      if (!chosen) continue;
      EXPECT_LE(chosen->stored_bits, budget);
      EXPECT_GE(chosen->loss_rise, best * (1 - 1e-12));
      // Lagrange's bound: what is left below the first step that does not fit is worth less a bit than the last taken.
      if (std::isfinite(chosen->worth_of_a_bit)) {
        EXPECT_LE(chosen->loss_rise - best, chosen->worth_of_a_bit * static_cast<double>(largest_step(shares)) + 1e-12)
            << seed << " " << budget;
      }
    }
    // Where the hulls are all that there is, each of their budgets has its optimum.
    std::vector<Share> convex = shares;
    double harm = shares[0].candidates[0].loss_rise;
    for (Share& share : convex) {
      share.candidates.clear();
      for (int bits = 1; bits <= 5; ++bits) share.candidates.push_back({100 * bits, std::ldexp(harm, -2 * bits)});
      harm *= 2.7;
    }
    for (std::int64_t budget = 600; budget <= 3000; budget += 100)
      EXPECT_NEAR(allocate(convex, budget)->loss_rise, best_by_trial(convex, budget), 1e-9) << seed << " " << budget;
  }
}

TEST(Allocation, OfEqualsTheFirstShareGoesFirst) {
  const Share share{"one", {{100, 4}, {200, 1}}};
  EXPECT_THAT(allocate({share, share, share}, 400)->choice, ElementsAre(1, 0, 0));
}

TEST(Allocation, RefusesLossesThatAreNoNumbers) {
  EXPECT_THROW(allocate({{"a", {{100, std::nan("")}}}}, 400), core::InternalError);
  EXPECT_THROW(allocate({{"a", {}}}, 400), core::InternalError);
}

}  // namespace
}  // namespace voronoi::planning
