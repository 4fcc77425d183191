#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "sched/scheduler.h"
#include "sched/simulation.h"

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

TEST(CostModel, AWideTaskTakesItsSerialPartAndItsShareOfPieces) {
  Task task = make("down", 10, 4);
  EXPECT_DOUBLE_EQ(wall_seconds(task, 4), 2.5);
  task.serial_seconds = 2;
  EXPECT_DOUBLE_EQ(wall_seconds(task, 1), 10);
  EXPECT_DOUBLE_EQ(wall_seconds(task, 4), 2 + 8.0 / 4);
  task.pieces = 6;  // two members have two pieces
  EXPECT_DOUBLE_EQ(wall_seconds(task, 4), 2 + 8.0 * 2 / 6);
  EXPECT_DOUBLE_EQ(wall_seconds(task, 8), 2 + 8.0 / 6);
  task.team_seconds = 0.5;
  EXPECT_DOUBLE_EQ(wall_seconds(task, 1), 10);
  EXPECT_DOUBLE_EQ(wall_seconds(task, 8), 2.5 + 8.0 / 6);
  CostModel model;
  model.observe(task, 2 * wall_seconds(task, 4));
  EXPECT_DOUBLE_EQ(model.predict(task), 20);
  EXPECT_DOUBLE_EQ(model.predict_wall(task), 2 * wall_seconds(task, 4));
}

std::vector<Task> make_all(const std::vector<double>& seconds) {
  std::vector<Task> tasks;
  for (const double value : seconds) {
    tasks.push_back(make("kind", value));
    tasks.back().id = static_cast<std::int64_t>(tasks.size());
  }
  return tasks;
}

double phase_seconds(std::vector<Task> tasks, const std::vector<int>& widths, int n_ranks) {
  for (std::size_t i = 0; i < tasks.size(); ++i) tasks[i].width = widths[i];
  Simulation simulation(tasks, n_ranks);
  simulation.run();
  return simulation.end;
}

TEST(ChooseWidths, GivesOneRankToEveryTaskOfAnEvenLoad) {
  EXPECT_EQ(choose_widths(make_all({1, 1, 1, 1}), 2), (std::vector<int>{1, 1, 1, 1}));
  EXPECT_EQ(choose_widths(make_all({1, 1, 1, 1}), 4), (std::vector<int>{1, 1, 1, 1}));
}

TEST(ChooseWidths, SplitsWhatOutlastsAnEvenShare) {
  const auto widths = choose_widths(make_all({8, 1, 1, 1, 1}), 4);
  EXPECT_GT(widths[0], 1);
  EXPECT_EQ(choose_widths(make_all({5}), 4), (std::vector<int>{4}));
  std::vector<Task> whole = make_all({5});
  whole[0].pieces = 1;
  EXPECT_EQ(choose_widths(whole, 4), (std::vector<int>{1}));
}

TEST(ChooseWidths, NeverMakesAPhaseLongerThanOneRankATask) {
  std::vector<double> seconds;
  for (int i = 1; i <= 40; ++i) seconds.push_back(i * i * 0.5);
  const double total = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  for (const int n_ranks : {1, 2, 3, 8, 13, 34, 64}) {
    const std::vector<Task> tasks = make_all(seconds);
    const auto widths = choose_widths(tasks, n_ranks);
    ASSERT_EQ(widths.size(), seconds.size());
    for (const int width : widths) {
      EXPECT_GE(width, 1);
      EXPECT_LE(width, n_ranks);
    }
    const double chosen = phase_seconds(tasks, widths, n_ranks);
    EXPECT_LE(chosen, phase_seconds(tasks, std::vector<int>(seconds.size(), 1), n_ranks));
    EXPECT_LE(chosen, 1.1 * total / n_ranks) << n_ranks;
  }
}

TEST(ChooseWidths, AnExchangeDearerThanTheWorkIsNotWorthATeam) {
  std::vector<Task> tasks = make_all({5, 5});
  for (Task& task : tasks) task.team_seconds = 4;
  EXPECT_EQ(choose_widths(tasks, 8), (std::vector<int>{1, 1}));
}

TEST(ChooseWidths, BearsEmptyListsAndFiguresThatAreNoTimes) {
  EXPECT_TRUE(choose_widths({}, 3).empty());
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(choose_widths(make_all({0, 0}), 3), (std::vector<int>{1, 1}));
  EXPECT_EQ(choose_widths(make_all({nan, infinity, -3, 1}), 2), (std::vector<int>{1, 1, 1, 2}));
  EXPECT_THROW(choose_widths(make_all({1}), 0), core::Error);
}

}  // namespace
}  // namespace voronoi::sched
