#include "tune/sequences.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "core/error.h"

namespace voronoi::tune {
namespace {

TEST(Sequences, AnEighthIsHeldOutAndNothingIsInBoth) {
  const Sequences sequences = divide(128, 1, 0.125);
  EXPECT_EQ(sequences.held_out.size(), 16U);
  EXPECT_EQ(sequences.training.size(), 112U);
  EXPECT_EQ(sequences.batch, 1);
  std::set<std::int64_t> all(sequences.held_out.begin(), sequences.held_out.end());
  all.insert(sequences.training.begin(), sequences.training.end());
  EXPECT_EQ(all.size(), 128U);
}

TEST(Sequences, BatchesGrowOnceThereAreStepsEnough) {
  EXPECT_EQ(divide(1200, 1, 0.125).batch, 4);
  EXPECT_EQ(divide(128, 8, 0.125).batch, 3);
  EXPECT_EQ(divide(1000000, 1, 0.125).batch, kMostBatch);
  // Stripes have one length, so a few sequences may be left over.
  const Sequences sequences = divide(1199, 1, 0.125);
  EXPECT_EQ(sequences.training.size() % static_cast<std::size_t>(sequences.batch), 0U);
}

TEST(Sequences, TwoAreTheFewest) {
  EXPECT_EQ(divide(2, 1, 0.125).held_out.size(), 1U);
  EXPECT_EQ(divide(2, 1, 0.125).training.size(), 1U);
  EXPECT_THROW(divide(1, 1, 0.125), core::ConfigError);
  EXPECT_THROW(divide(0, 1, 0.125), core::ConfigError);
}

TEST(Sequences, EachPassTakesEverySequenceOnceInAnOrderOfItsOwn) {
  const Sequences sequences = divide(1200, 2, 0.125);
  const std::int64_t length = sequences.stripe_length();
  std::vector<std::vector<std::int64_t>> passes;
  for (std::int64_t pass = 0; pass < 2; ++pass) {
    std::vector<std::int64_t> taken;
    for (std::int64_t step = pass * length; step < (pass + 1) * length; ++step)
      for (std::int64_t stripe = 0; stripe < sequences.batch; ++stripe)
        taken.push_back(window_of(sequences, 7, step, stripe));
    passes.push_back(taken);
    std::sort(taken.begin(), taken.end());
    std::vector<std::int64_t> training = sequences.training;
    std::sort(training.begin(), training.end());
    EXPECT_EQ(taken, training) << "pass " << pass;
  }
  EXPECT_NE(passes[0], passes[1]);
  EXPECT_NE(window_of(sequences, 7, 0, 0), window_of(sequences, 8, 0, 0));
}

TEST(Sequences, RanksShareAllWindowsAndKeepTheirStripes) {
  const Sequences sequences = divide(1200, 1, 0.125);
  for (const int size : {1, 2, 3, 7}) {
    std::multiset<std::int64_t> all;
    for (int rank = 0; rank < size; ++rank) {
      const std::vector<std::int64_t> mine = windows_of(sequences, rank, size);
      all.insert(mine.begin(), mine.end());
      const Share stripes = share_of(sequences.batch, rank, size);
      for (std::int64_t step = 0; step < 5; ++step)
        for (std::int64_t stripe = stripes.first; stripe < stripes.last; ++stripe)
          EXPECT_NE(std::find(mine.begin(), mine.end(), window_of(sequences, 1, step, stripe)), mine.end());
    }
    EXPECT_EQ(all.size(), sequences.training.size() + sequences.held_out.size()) << size << " ranks";
  }
}

}  // namespace
}  // namespace voronoi::tune
