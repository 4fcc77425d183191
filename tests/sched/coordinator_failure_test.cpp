// Tasks and ranks that fail, and tasks that take too long.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "core/error.h"
#include "sched/coordinator.h"
#include "sched/simulation.h"
#include "support/scheduled_tasks.h"

namespace voronoi::sched {
namespace {

using test::expect_each_done_once;
using test::make_tasks;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Coordinator, AFailedTaskIsRetriedOnAnotherRank) {
  for (const int n_ranks : {2, 3, 8}) {
    Simulation simulation(make_tasks({9, 1, 1, 1, 1, 1, 1, 1}), n_ranks);
    simulation.execute = [](const Task& task, const std::vector<int>&, int number) {
      return task.id == 3 && number == 1 ? RunResult{0.1, TaskStatus::failed, {}}
                                         : RunResult{task.predicted_seconds, {}, {}};
    };
    simulation.run();
    expect_each_done_once(simulation, 8);
    std::vector<int> ranks;
    for (const SimulatedRun& run : simulation.runs)
      if (run.id == 3) ranks.push_back(run.members.front());
    ASSERT_EQ(ranks.size(), 2U);
    EXPECT_NE(ranks[0], ranks[1]);
    EXPECT_THAT(simulation.failed, ElementsAre("3 on " + std::to_string(ranks[0]) + " try 1: error"));
    EXPECT_THAT(simulation.quarantined, IsEmpty());
  }
}

TEST(Coordinator, ATaskThatFailedOnEveryRankMayComeBackToOne) {
  Simulation simulation(make_tasks({1}), 2, {.max_tries = 3});
  simulation.execute = [](const Task&, const std::vector<int>&, int number) {
    return RunResult{1, number < 3 ? TaskStatus::failed : TaskStatus::ok, {}};
  };
  simulation.run();
  ASSERT_EQ(simulation.runs.size(), 3U);
  EXPECT_NE(simulation.runs[0].members, simulation.runs[1].members);
  expect_each_done_once(simulation, 1);
}

TEST(Coordinator, ATaskThatFailsTooOftenIsQuarantinedAndTheRestGoesOn) {
  for (const int n_ranks : {1, 3}) {
    Simulation simulation(make_tasks({1, 2, 3, 4, 5}), n_ranks);
    simulation.execute = [](const Task& task, const std::vector<int>&, int) {
      return RunResult{task.predicted_seconds, task.id == 4 || task.id == 1 ? TaskStatus::failed : TaskStatus::ok, {}};
    };
    simulation.run();
    EXPECT_EQ(simulation.done.size(), 3U);
    EXPECT_EQ(simulation.failed.size(), 4U);
    EXPECT_THAT(simulation.finishes.front().quarantined, ElementsAre(1, 4));
    EXPECT_FALSE(simulation.finishes.front().stopped);
    EXPECT_EQ(simulation.finishes.front().error_code, 0);
  }
}

/// What fails on a rank when it is broken: every task, at once.
Simulation::Execute broken_ranks(const std::set<int>& broken) {
  return [broken](const Task& task, const std::vector<int>& members, int) {
    RunResult result{task.predicted_seconds, {}, {}};
    for (const int member : members)
      if (broken.contains(member)) result = {0.001, TaskStatus::failed, {member}};
    return result;
  };
}

TEST(Coordinator, ARankThatFailsOneTaskAfterAnotherIsLeftOut) {
  Simulation simulation(make_tasks(std::vector<double>(40, 5.0)), 4);
  simulation.execute = broken_ranks({2});
  std::vector<std::string> left_out;
  simulation.events.rank_left_out = [&](int rank, const std::string& error) {
    left_out.push_back(std::to_string(rank) + " after " + std::to_string(simulation.failed.size()) + ": " + error);
  };
  simulation.run();
  expect_each_done_once(simulation, 40);
  EXPECT_THAT(left_out, ElementsAre("2 after 3: error"));
  EXPECT_EQ(simulation.failed.size(), 3U);
  EXPECT_THAT(simulation.quarantined, IsEmpty());
  EXPECT_TRUE(simulation.coordinator().all_left());
}

TEST(Coordinator, WhatFailedOnARankThatWasLeftOutCountsAsNotTried) {
  // Rank 0 breaks three tasks; the first of them fails once more elsewhere and is not given up for that.
  Simulation simulation(make_tasks({9, 8, 7, 1, 1, 1, 1}), 2);
  int failures_of_0 = 0;
  simulation.execute = [&](const Task& task, const std::vector<int>& members, int) {
    if (members.front() == 0) return RunResult{0.001, TaskStatus::failed, {}};
    if (task.id == 0 && failures_of_0++ == 0) return RunResult{1, TaskStatus::failed, {}};
    return RunResult{task.predicted_seconds, {}, {}};
  };
  simulation.run();
  expect_each_done_once(simulation, 7);
  EXPECT_THAT(simulation.quarantined, IsEmpty());
}

TEST(Coordinator, TheLastRankAndThoseThatAWideTaskNeedsAreNeverLeftOut) {
  Simulation all_broken(make_tasks(std::vector<double>(10, 5.0)), 2);
  all_broken.execute = broken_ranks({0, 1});
  all_broken.run();
  EXPECT_EQ(all_broken.finishes.front().quarantined.size(), 10U);
  EXPECT_TRUE(all_broken.coordinator().all_left());

  std::vector<double> seconds(20, 5.0);
  Simulation wide(make_tasks(seconds, {2}), 2);
  int n_left_out = 0;
  wide.events.rank_left_out = [&](int, const std::string&) { ++n_left_out; };
  wide.execute = [](const Task& task, const std::vector<int>& members, int) {
    return members == std::vector<int>{1} ? RunResult{0.001, TaskStatus::failed, {}}
                                          : RunResult{task.predicted_seconds, {}, {}};
  };
  wide.run();
  expect_each_done_once(wide, 20);
  EXPECT_EQ(n_left_out, 0);
}

TEST(Coordinator, TasksThatFailOnEveryRankAreNoRanksFault) {
  Simulation simulation(make_tasks(std::vector<double>(30, 5.0)), 3);
  int n_left_out = 0;
  simulation.events.rank_left_out = [&](int, const std::string&) { ++n_left_out; };
  simulation.execute = [](const Task& task, const std::vector<int>&, int) {
    return RunResult{5, task.id < 10 ? TaskStatus::failed : TaskStatus::ok, {}};
  };
  simulation.run();
  EXPECT_EQ(simulation.quarantined.size(), 10U);
  EXPECT_EQ(n_left_out, 0);
}

WorkerMessage done_message(std::int64_t task, double seconds, TaskStatus status = TaskStatus::ok) {
  WorkerMessage message;
  message.kind = WorkerMessage::Kind::done;
  message.task = task;
  message.seconds = seconds;
  message.status = status;
  message.at_fault = status == TaskStatus::failed;
  return message;
}

/// Two ranks; task 1 has ended after 8 s as predicted, task 0 goes on for 33 s: more than 4 times its 8 s, and the 10
/// s.
class OverdueTask : public ::testing::Test {
 protected:
  OverdueTask() : simulation_(make_tasks({8, 8}), 2, {.overdue_factor = 4, .overdue_seconds = 10}) {
    simulation_.events.task_overdue = [this](const Task& task, int rank, double seconds, int other) {
      overdue_.push_back(task.name + " on " + std::to_string(rank) + " for " +
                         std::to_string(static_cast<int>(seconds)) + " s, also on " + std::to_string(other));
    };
    coordinator_.on_message(0, WorkerMessage{}, 0);
    coordinator_.on_message(1, WorkerMessage{}, 0);
    coordinator_.on_message(1, done_message(1, 8), 8);
    EXPECT_THAT(coordinator_.on_tick(31), IsEmpty());
    const auto commands = coordinator_.on_tick(33);
    EXPECT_EQ(commands.size(), 1U);
    if (commands.size() != 1) return;
    EXPECT_EQ(commands[0].rank, 1);
    EXPECT_EQ(commands[0].command.kind, Command::Kind::run);
    EXPECT_EQ(commands[0].command.task, 0);
    EXPECT_THAT(coordinator_.on_tick(36), IsEmpty());  // once
  }
  Simulation simulation_;
  Coordinator& coordinator_ = simulation_.coordinator();
  std::vector<std::string> overdue_;
};

TEST_F(OverdueTask, GoesToAnotherRankWhoseResultCountsWhenItIsFirst) {
  EXPECT_THAT(overdue_, ElementsAre("task 0 on 0 for 33 s, also on 1"));
  const auto commands = coordinator_.on_message(1, done_message(0, 8), 41);
  EXPECT_THAT(simulation_.done, ElementsAre(1, 0));
  ASSERT_EQ(commands.size(), 1U);
  EXPECT_EQ(commands[0].rank, 0);
  EXPECT_EQ(commands[0].command.kind, Command::Kind::cancel);
  EXPECT_EQ(commands[0].command.sequence, 1);
  EXPECT_FALSE(coordinator_.finished());
  EXPECT_EQ(coordinator_.on_message(0, done_message(0, 42, TaskStatus::stopped), 42).size(), 2U);
  EXPECT_TRUE(coordinator_.finished());
  EXPECT_FALSE(coordinator_.result().stopped);
  EXPECT_THAT(simulation_.done, ElementsAre(1, 0));
}

TEST_F(OverdueTask, KeepsItsFirstRanksResultWhenThatIsFirst) {
  const auto commands = coordinator_.on_message(0, done_message(0, 35), 35);
  ASSERT_EQ(commands.size(), 1U);
  EXPECT_EQ(commands[0].rank, 1);
  EXPECT_EQ(commands[0].command.kind, Command::Kind::cancel);
  EXPECT_EQ(commands[0].command.sequence, 3);
  // The second may have been done before the word came.
  EXPECT_EQ(coordinator_.on_message(1, done_message(0, 8), 41).size(), 2U);
  EXPECT_TRUE(coordinator_.finished());
  EXPECT_THAT(simulation_.done, ElementsAre(1, 0));
}

TEST_F(OverdueTask, IsNotLostWhenOneOfTheTwoFails) {
  EXPECT_THAT(coordinator_.on_message(0, done_message(0, 35, TaskStatus::failed), 35), IsEmpty());
  EXPECT_THAT(simulation_.failed, ElementsAre("0 on 0 try 1: "));
  EXPECT_EQ(coordinator_.on_message(1, done_message(0, 8), 41).size(), 2U);
  EXPECT_THAT(simulation_.done, ElementsAre(1, 0));
  EXPECT_THAT(simulation_.quarantined, IsEmpty());
}

TEST_F(OverdueTask, IsInterruptedByAStopOnBoth) {
  coordinator_.on_stop(35);
  EXPECT_THAT(coordinator_.on_message(0, done_message(0, 35, TaskStatus::stopped), 35), IsEmpty());
  EXPECT_EQ(coordinator_.on_message(1, done_message(0, 3, TaskStatus::stopped), 36).size(), 2U);
  EXPECT_TRUE(coordinator_.result().stopped);
  EXPECT_THAT(simulation_.failed, IsEmpty());
}

TEST(Coordinator, AnErrorOfTheNodeThatFailsATaskForGoodEndsThePhaseWithItsCode) {
  Simulation simulation(make_tasks({5, 4}), 1);
  Coordinator& coordinator = simulation.coordinator();
  coordinator.on_message(0, WorkerMessage{}, 0);
  WorkerMessage lost = done_message(0, 1, TaskStatus::failed);
  lost.error_code = static_cast<int>(core::ExitCode::node);
  lost.text = "the GPU is lost";
  coordinator.on_message(0, lost, 1);
  const auto commands = coordinator.on_message(0, lost, 2);
  ASSERT_EQ(commands.size(), 1U);
  EXPECT_EQ(commands[0].command.kind, Command::Kind::finish);
  EXPECT_EQ(commands[0].command.error_code, static_cast<int>(core::ExitCode::node));
  EXPECT_EQ(commands[0].command.error, "task 0: the GPU is lost");
  EXPECT_THAT(simulation.quarantined, IsEmpty());
}

TEST(Coordinator, AllTasksFailingEndsThePhase) {
  Simulation simulation(make_tasks({1, 2, 3}, {3, 1, 2}), 3);
  simulation.execute = [](const Task&, const std::vector<int>&, int) { return RunResult{1, TaskStatus::failed, {}}; };
  simulation.run();
  EXPECT_THAT(simulation.finishes.front().quarantined, ElementsAre(0, 1, 2));
  EXPECT_EQ(simulation.runs.size(), 6U);
}

}  // namespace
}  // namespace voronoi::sched
