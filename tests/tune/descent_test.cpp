#include "tune/descent.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"

namespace voronoi::tune {
namespace {

/// Least squares around 3, seen through a training loss that may be made to run away.
class DescentTest : public ::testing::Test {
 protected:
  DescentTest() {
    calls_.differentiate = [this](std::int64_t step, std::span<const float> values, std::vector<float>& gradient) {
      steps_.push_back(step);
      gradient.clear();
      for (const float value : values) gradient.push_back(2 * (value - 3));
      return step == bad_step_ ? bad_loss_ : loss(values);
    };
    calls_.held_out = [this](std::span<const float> values) { return loss(values) + drift_ * looks_++; };
    calls_.rounded = [](std::span<const float> values) {
      std::vector<float> rounded;
      for (const float value : values) rounded.push_back(std::round(value * 64) / 64);
      return rounded;
    };
    calls_.stop = [this] { return std::ssize(steps_) == stop_after_; };
    calls_.point = [this](const DescentPoint& point) { points_.push_back(point); };
    calls_.keep = [this](const DescentState& state) { kept_.push_back(state); };
    calls_.stepped = [](std::int64_t, double) {};
  }

  static double loss(std::span<const float> values) {
    return std::accumulate(values.begin(), values.end(), 0.0,
                           [](double sum, float value) { return sum + std::pow(static_cast<double>(value) - 3, 2); });
  }

  DescentEnd descend(DescentState& state) { return tune::descend(pool_, segments_, plan_, calls_, state); }
  static DescentState start() {
    DescentState state;
    state.values = {1, 4};
    return state;
  }

  core::ThreadPool pool_{1};
  std::vector<Segment> segments_{{"layer", "codebook", Kind::codebook, 0, 2, 1.0}};
  DescentPlan plan_{40, 10, 5, 0.1};
  Descent calls_;
  std::vector<std::int64_t> steps_;
  std::vector<DescentPoint> points_;
  std::vector<DescentState> kept_;
  std::int64_t bad_step_ = -1, stop_after_ = -1;
  double bad_loss_ = std::numeric_limits<double>::quiet_NaN(), drift_ = 0;
  int looks_ = 0;
};

TEST_F(DescentTest, KeepsTheBestOfItsLooks) {
  DescentState state = start();
  EXPECT_EQ(descend(state), DescentEnd::finished);
  EXPECT_EQ(points_.size(), 5U);
  EXPECT_EQ(points_.front().step, 0);
  EXPECT_EQ(points_.back().step, 40);
  EXPECT_LT(state.best_loss, 0.2);
  EXPECT_NEAR(state.best_loss, loss(state.best), 1e-12);
  for (const float value : state.best) EXPECT_EQ(value * 64, std::round(value * 64)) << "kept unrounded";
}

TEST_F(DescentTest, EndsWhereTheHeldOutLossFallsNoLonger) {
  drift_ = 5;
  DescentState state = start();
  EXPECT_EQ(descend(state), DescentEnd::no_gain);
  EXPECT_EQ(state.best_step, 0);
  EXPECT_EQ(state.step, 20);
  EXPECT_EQ(state.best, (std::vector<float>{1, 4}));
}

TEST_F(DescentTest, ALossThatIsNoNumberGoesBackToTheBest) {
  bad_step_ = 13;
  DescentState state = start();
  EXPECT_EQ(descend(state), DescentEnd::finished);
  EXPECT_EQ(state.fallbacks, 1);
  EXPECT_LT(state.best_loss, 5);
  // Half the rate from then on.
  EXPECT_NEAR(points_[2].learning_rate, 0.05 * schedule(20, 40), 1e-12);
}

TEST_F(DescentTest, ARateThatRunsAwayIsHalvedAndGivenUpInTheEnd) {
  plan_.learning_rate = 1e6;
  DescentState state = start();
  EXPECT_EQ(descend(state), DescentEnd::diverged);
  EXPECT_EQ(state.fallbacks, kMostFallbacks + 1);
  EXPECT_EQ(state.best, (std::vector<float>{1, 4}));
}

TEST_F(DescentTest, HeldOutTextWithoutALossIsAnError) {
  calls_.held_out = [](std::span<const float>) { return std::numeric_limits<double>::quiet_NaN(); };
  DescentState state = start();
  EXPECT_THROW(descend(state), core::NumericError);
}

TEST_F(DescentTest, GoesOnFromAnyKeptStateToTheSameBytes) {
  DescentState whole = start();
  descend(whole);
  const std::vector<DescentState> kept = kept_;
  const std::vector<DescentPoint> points = points_;
  ASSERT_GT(kept.size(), 7U);
  for (const DescentState& from : kept) {
    points_.clear();
    DescentState state = from;
    EXPECT_EQ(descend(state), DescentEnd::finished);
    EXPECT_EQ(state.values, whole.values) << "from step " << from.step;
    EXPECT_EQ(state.best, whole.best) << "from step " << from.step;
    if (!points_.empty()) {
      EXPECT_EQ(points_.back().training_loss, points.back().training_loss);
      EXPECT_EQ(points_.back().held_out_loss, points.back().held_out_loss);
    }
  }
}

TEST_F(DescentTest, WhatMovesBesidesFollowsEachStepAndGoesBackWithTheNumbers) {
  bad_step_ = 13;
  std::int64_t n_follows = 0, n_best = 0, n_back = 0;
  calls_.follow = [&](std::span<const float> values) { n_follows += std::ssize(values) / 2; };
  calls_.best_found = [&] { ++n_best; };
  calls_.went_back = [&] { ++n_back; };
  DescentState state = start();
  descend(state);
  EXPECT_EQ(n_follows, 39);  // the step that ran away moved nothing
  EXPECT_GE(n_best, 2);
  EXPECT_EQ(n_back, 1);
}

TEST_F(DescentTest, AStopKeepsTheState) {
  stop_after_ = 13;
  DescentState state = start();
  EXPECT_EQ(descend(state), DescentEnd::stopped);
  EXPECT_EQ(kept_.back().step, 13);
}

}  // namespace
}  // namespace voronoi::tune
