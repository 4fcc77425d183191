#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "sched/scheduler.h"

namespace voronoi::sched {
namespace {

Task make(const std::string& kind, double predicted, int width = 1) { return {0, kind, kind, predicted, width}; }

TEST(CostModel, PredictsWhatTheTaskSaysBeforeAnythingWasMeasured) {
  EXPECT_EQ(CostModel().predict(make("down", 3)), 3);
}

TEST(CostModel, CorrectsAKindByItsRunningRatio) {
  CostModel model;
  model.observe(make("down", 1), 2);
  model.observe(make("down", 3), 10);
  EXPECT_DOUBLE_EQ(model.predict(make("down", 2)), 6);
}

TEST(CostModel, GivesAnUnseenKindTheRatioOfAll) {
  CostModel model;
  model.observe(make("down", 1), 2);
  model.observe(make("qkv", 1), 6);
  EXPECT_DOUBLE_EQ(model.predict(make("gate", 10)), 40);
  EXPECT_DOUBLE_EQ(model.predict(make("qkv", 10)), 60);
}

TEST(CostModel, CountsTheTimeOfAllMembersOfAWideTask) {
  CostModel model;
  model.observe(make("down", 6, 3), 4);
  EXPECT_DOUBLE_EQ(model.predict(make("down", 1)), 2);
}

TEST(CostModel, IgnoresFiguresThatAreNoTimes) {
  CostModel model;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  model.observe(make("down", 0), 5);
  model.observe(make("down", nan), 5);
  model.observe(make("down", 5), nan);
  model.observe(make("down", 5), -1);
  EXPECT_EQ(model.predict(make("down", 2)), 2);
  EXPECT_EQ(model.predict(make("down", nan)), 0);
  EXPECT_EQ(model.predict(make("down", -1)), 0);
}

TEST(ChooseWidths, GivesOneRankToEveryTaskOfAnEvenLoad) {
  EXPECT_EQ(choose_widths({1, 1, 1, 1}, 2), (std::vector<int>{1, 1, 1, 1}));
  EXPECT_EQ(choose_widths({1, 1, 1, 1}, 4), (std::vector<int>{1, 1, 1, 1}));
}

TEST(ChooseWidths, SplitsWhatOutlastsAnEvenShare) {
  EXPECT_EQ(choose_widths({8, 1, 1, 1, 1}, 4), (std::vector<int>{3, 1, 1, 1, 1}));
  EXPECT_EQ(choose_widths({5}, 4), (std::vector<int>{4}));
}

TEST(ChooseWidths, BringsEveryTaskNearAnEvenShare) {
  std::vector<double> seconds;
  for (int i = 1; i <= 40; ++i) seconds.push_back(i * i * 0.5);
  for (int n_ranks = 1; n_ranks <= 64; ++n_ranks) {
    const double share = std::accumulate(seconds.begin(), seconds.end(), 0.0) / n_ranks;
    const auto widths = choose_widths(seconds, n_ranks);
    ASSERT_EQ(widths.size(), seconds.size());
    for (std::size_t i = 0; i < widths.size(); ++i) {
      EXPECT_GE(widths[i], 1);
      EXPECT_LE(widths[i], n_ranks);
      EXPECT_LE(seconds[i] / widths[i], share * 1.011);
      if (widths[i] > 1) {
        EXPECT_GT(seconds[i] / (widths[i] - 1), share);
      }
    }
  }
}

TEST(ChooseWidths, BearsEmptyListsAndFiguresThatAreNoTimes) {
  EXPECT_TRUE(choose_widths({}, 3).empty());
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(choose_widths({0, 0}, 3), (std::vector<int>{1, 1}));
  EXPECT_EQ(choose_widths({nan, infinity, -3, 1}, 2), (std::vector<int>{1, 1, 1, 2}));
  EXPECT_THROW(choose_widths({1}, 0), core::Error);
}

}  // namespace
}  // namespace voronoi::sched
