#include "sched/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "sched/simulation.h"

namespace voronoi::sched {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<Task> make_tasks(const std::vector<double>& seconds, const std::vector<int>& widths = {}) {
  std::vector<Task> tasks;
  for (std::size_t i = 0; i < seconds.size(); ++i)
    tasks.push_back({static_cast<std::int64_t>(i), "task " + std::to_string(i), "kind", seconds[i],
                     i < widths.size() ? widths[i] : 1});
  return tasks;
}

std::vector<double> random_seconds(int n, std::uint64_t seed) {
  const core::CounterRandom random(seed, 0);
  std::vector<double> seconds;
  for (int i = 0; i < n; ++i) {
    const double u = random.uniform(static_cast<std::uint64_t>(i));
    seconds.push_back(0.5 + 20 * u * u * u);
  }
  return seconds;
}

std::vector<std::int64_t> ids(const std::vector<SimulatedRun>& runs) {
  std::vector<std::int64_t> result;
  for (const SimulatedRun& run : runs) result.push_back(run.id);
  return result;
}

void expect_each_done_once(const Simulation& simulation, std::int64_t n) {
  auto done = simulation.done;
  std::sort(done.begin(), done.end());
  std::vector<std::int64_t> all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(done, all);
}

void expect_no_rank_runs_two_at_once(const std::vector<SimulatedRun>& runs) {
  std::map<int, double> free_from;
  for (const SimulatedRun& run : runs) {
    for (const int member : run.members) {
      EXPECT_GE(run.start, free_from[member]) << "rank " << member;
      free_from[member] = run.end;
    }
  }
}

TEST(Coordinator, OneRankRunsTheLongestFirstAndTheLowestIdOfEqualOnes) {
  Simulation simulation(make_tasks({1, 5, 3, 5, 0}), 1);
  simulation.run();
  EXPECT_THAT(ids(simulation.runs), ElementsAre(1, 3, 2, 0, 4));
  EXPECT_EQ(simulation.finishes.size(), 1U);
  EXPECT_TRUE(simulation.coordinator().all_left());
}

TEST(Coordinator, RunsEveryTaskOnceOnAnyNumberOfRanks) {
  for (const int n_ranks : {1, 2, 3, 7, 64}) {
    const auto seconds = random_seconds(200, 1);
    std::vector<int> widths;
    for (int i = 0; i < 200; ++i) widths.push_back(std::min(n_ranks, i % 17 == 0 ? 1 + i % 5 : 1));
    Simulation simulation(make_tasks(seconds, widths), n_ranks);
    simulation.ready_at = [](int rank) { return 0.01 * rank; };
    simulation.run();
    expect_each_done_once(simulation, 200);
    expect_no_rank_runs_two_at_once(simulation.runs);
    EXPECT_EQ(simulation.finishes.size(), static_cast<std::size_t>(n_ranks));
    for (const SimulatedRun& run : simulation.runs)
      EXPECT_EQ(run.members.size(), static_cast<std::size_t>(widths[static_cast<std::size_t>(run.id)]));
  }
}

TEST(Coordinator, AThousandRanksStayWithinTheBoundOfListScheduling) {
  const auto seconds = random_seconds(20000, 2);
  Simulation simulation(make_tasks(seconds), 1024);
  simulation.run();
  expect_each_done_once(simulation, 20000);
  const double share = std::accumulate(seconds.begin(), seconds.end(), 0.0) / 1024;
  const double longest = *std::max_element(seconds.begin(), seconds.end());
  EXPECT_LE(simulation.end, share + longest);
  EXPECT_LE(simulation.end, 1.02 * share);  // longest-first leaves only short tasks for the end
}

TEST(Coordinator, WidthsThatChooseWidthsGivesShortenAPhaseOfFewLongTasks) {
  const std::vector<double> seconds = {40, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4};
  Simulation narrow(make_tasks(seconds), 4), wide(make_tasks(seconds, choose_widths(make_tasks(seconds), 4)), 4);
  narrow.run();
  wide.run();
  EXPECT_EQ(narrow.end, 40);
  EXPECT_LT(wide.end, 28);
}

TEST(Coordinator, CorrectionByWhatWasMeasuredChangesTheOrder) {
  std::vector<Task> tasks = {
      {0, "a", "slow", 2, 1}, {1, "b", "slow", 1, 1}, {2, "c", "fast", 1.9, 1}, {3, "d", "fast", 1.5, 1}};
  Simulation simulation(tasks, 1);
  simulation.execute = [](const Task& task, const std::vector<int>&, int) {
    return RunResult{task.predicted_seconds * (task.kind == "slow" ? 10 : 1), {}, {}};
  };
  simulation.run();
  // After 0 both kinds carry its factor; after 2 "fast" is known to be fast and 1 overtakes 3.
  EXPECT_THAT(ids(simulation.runs), ElementsAre(0, 2, 1, 3));
}

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

TEST(Coordinator, WideTasksStartFirstOnTheLowestRanksOnceAllAreThere) {
  Simulation simulation(make_tasks({9, 4, 8, 1}, {1, 2, 3, 1}), 4);
  simulation.ready_at = [](int rank) { return 1.0 - 0.1 * rank; };
  simulation.run();
  EXPECT_EQ(simulation.runs[0].id, 2);
  EXPECT_EQ(simulation.runs[0].start, 1.0);
  EXPECT_THAT(simulation.runs[0].members, ElementsAre(0, 1, 2));
  expect_each_done_once(simulation, 4);
}

TEST(Coordinator, RanksThatGatherForAWideTaskRunOnlyWhatEndsInTime) {
  // The first wide task holds ranks 0..2 until 10; the second wants 3 ranks, so rank 3 may fill in until then.
  Simulation simulation(make_tasks({30, 15, 12, 6, 4, 1}, {3, 3, 1, 1, 1, 1}), 4);
  simulation.run();
  const auto start_of = [&](std::int64_t id) {
    for (const SimulatedRun& run : simulation.runs)
      if (run.id == id) return run.start;
    return -1.0;
  };
  EXPECT_EQ(start_of(0), 0);
  EXPECT_EQ(start_of(3), 0);   // 6 s: the longest that is over by 10
  EXPECT_EQ(start_of(4), 6);   // 4 s: over by 10 exactly
  EXPECT_EQ(start_of(1), 10);  // not delayed
  EXPECT_EQ(start_of(2), 10);  // 12 s: waited
  expect_no_rank_runs_two_at_once(simulation.runs);
}

TEST(Coordinator, AWideTaskIsReportedByItsLowestRankAndOnce) {
  Simulation simulation(make_tasks({9}, {3}), 3);
  std::vector<std::string> reports;
  simulation.events.task_done = [&](const Task&, const Outcome& outcome, int rank) {
    reports.push_back(outcome.report + " " + std::to_string(rank) + " " + std::to_string(outcome.seconds));
  };
  simulation.run();
  EXPECT_THAT(reports, ElementsAre("report of 0 0 3.000000"));
}

TEST(Coordinator, AWideTaskIsRetriedWithoutTheRankThatFailed) {
  Simulation simulation(make_tasks({9}, {2}), 3);
  simulation.execute = [](const Task&, const std::vector<int>&, int number) {
    return number == 1 ? RunResult{1, TaskStatus::failed, {1}} : RunResult{1, {}, {}};
  };
  simulation.run();
  ASSERT_EQ(simulation.runs.size(), 2U);
  EXPECT_THAT(simulation.runs[0].members, ElementsAre(0, 1));
  EXPECT_THAT(simulation.runs[1].members, ElementsAre(0, 2));
  EXPECT_THAT(simulation.failed, ElementsAre("0 on 1 try 1: error"));
}

TEST(Coordinator, NoTaskStartsAfterAStopAndThoseInFlightFinish) {
  Simulation simulation(make_tasks({5, 4, 3, 2, 1}), 2);
  simulation.stop_at = 4.5;  // 0 runs until 5, 2 from 4 until 7
  simulation.run();
  EXPECT_THAT(ids(simulation.runs), ElementsAre(0, 1, 2));
  EXPECT_THAT(simulation.done, ElementsAre(1, 0, 2));
  ASSERT_EQ(simulation.finishes.size(), 2U);
  EXPECT_TRUE(simulation.finishes.front().stopped);
}

TEST(Coordinator, AStopBeforeTheStartRunsNothing) {
  Simulation simulation(make_tasks({5, 4}), 3);
  simulation.stop_at = 0;
  simulation.run();
  EXPECT_THAT(simulation.runs, IsEmpty());
  EXPECT_TRUE(simulation.finishes.at(2).stopped);
}

TEST(Coordinator, AStopThatLeavesNothingUndoneIsNone) {
  Simulation simulation(make_tasks({5, 4}), 2);
  simulation.stop_at = 1;
  simulation.run();
  EXPECT_EQ(simulation.done.size(), 2U);
  EXPECT_FALSE(simulation.finishes.front().stopped);
}

TEST(Coordinator, AWorkersStopCountsAndSoDoesACallbacks) {
  Simulation by_callback(make_tasks({5, 4, 3}), 1);
  by_callback.execute = [](const Task&, const std::vector<int>&, int) { return RunResult{1, TaskStatus::stopped, {}}; };
  by_callback.run();
  EXPECT_THAT(ids(by_callback.runs), ElementsAre(0));
  EXPECT_THAT(by_callback.done, IsEmpty());
  EXPECT_THAT(by_callback.failed, IsEmpty());
  EXPECT_TRUE(by_callback.finishes.front().stopped);

  Simulation by_worker(make_tasks({5, 4, 3}), 2);
  Coordinator& coordinator = by_worker.coordinator();
  WorkerMessage ready;
  ready.stop_requested = true;
  EXPECT_THAT(coordinator.on_message(1, ready, 0), IsEmpty());
  EXPECT_EQ(coordinator.on_message(0, WorkerMessage{}, 0).size(), 2U);
  EXPECT_TRUE(coordinator.finished());
  EXPECT_TRUE(coordinator.result().stopped);
}

TEST(Coordinator, AFailureAfterAStopIsNotRetried) {
  Simulation simulation(make_tasks({5}), 2);
  simulation.stop_at = 1;
  simulation.execute = [](const Task&, const std::vector<int>&, int) { return RunResult{5, TaskStatus::failed, {}}; };
  simulation.run();
  EXPECT_EQ(simulation.runs.size(), 1U);
  EXPECT_TRUE(simulation.finishes.front().stopped);
  EXPECT_THAT(simulation.finishes.front().quarantined, IsEmpty());
}

TEST(Coordinator, ZeroTasksEndOnceAllRanksAreThere) {
  Simulation simulation({}, 3);
  simulation.run();
  EXPECT_EQ(simulation.finishes.size(), 3U);
  EXPECT_FALSE(simulation.finishes.front().stopped);
}

TEST(Coordinator, RanksGetShortTasksAheadAndStillEndTogether) {
  constexpr int kTasks = 2000, kRanks = 4;
  std::vector<double> seconds = random_seconds(kTasks, 3);
  for (double& value : seconds) value *= 1e-3;
  Simulation simulation(make_tasks(seconds), kRanks);
  int n_ahead = 0, n_done = 0;
  simulation.events.task_done = [&](const Task& task, const Outcome&, int) {
    simulation.done.push_back(task.id);
    ++n_done;
    if (simulation.coordinator().all_have_more()) ++n_ahead;
  };
  simulation.run();
  expect_each_done_once(simulation, kTasks);
  expect_no_rank_runs_two_at_once(simulation.runs);
  EXPECT_GT(n_ahead, kTasks / 2);
  EXPECT_LT(simulation.end, 1.01 * std::accumulate(seconds.begin(), seconds.end(), 0.0) / kRanks);
}

TEST(Coordinator, LongTasksGoToRanksThatAreFree) {
  std::vector<double> seconds(200, 2.0);
  Simulation simulation(make_tasks(seconds), 4);
  simulation.events.task_done = [&](const Task& task, const Outcome&, int) {
    simulation.done.push_back(task.id);
    EXPECT_FALSE(simulation.coordinator().all_have_more());
  };
  simulation.run();
  expect_each_done_once(simulation, 200);
}

TEST(Coordinator, WhatIsHandedOutAheadIsGivenBackByAStop) {
  Simulation simulation(make_tasks(std::vector<double>(1000, 0.01)), 2);
  simulation.execute = [](const Task&, const std::vector<int>& members, int) {
    static int runs = 0;
    ++runs;
    return runs > 100 && members.front() == 1 ? RunResult{0, TaskStatus::stopped, {}} : RunResult{0.01, {}, {}};
  };
  simulation.run();
  EXPECT_TRUE(simulation.coordinator().all_left());
  EXPECT_TRUE(simulation.coordinator().result().stopped);
  EXPECT_TRUE(simulation.quarantined.empty());
  EXPECT_LT(simulation.done.size(), 1000U);
  EXPECT_GE(simulation.done.size(), 100U);
}

TEST(Coordinator, AnErrorOfTheSinkEndsThePhaseAndNoCallbackComesAfterIt) {
  Simulation simulation(make_tasks({5, 4, 3, 2, 1}), 2);
  int calls = 0;
  simulation.events.task_done = [&](const Task&, const Outcome&, int) {
    if (++calls == 2) throw core::StoreError("journal: disk full");
  };
  simulation.run();
  EXPECT_EQ(calls, 2);
  EXPECT_THAT(ids(simulation.runs), ElementsAre(0, 1, 2));
  ASSERT_EQ(simulation.finishes.size(), 2U);
  EXPECT_EQ(simulation.finishes[1].error_code, static_cast<int>(core::ExitCode::system));
  EXPECT_EQ(simulation.finishes[1].error, "journal: disk full");
  EXPECT_THROW(std::rethrow_exception(simulation.coordinator().error()), core::StoreError);
}

TEST(Coordinator, ProgressTellsWhatRunsAndWhenItWillEnd) {
  Simulation simulation(make_tasks({8, 6, 4, 2}), 2);
  Coordinator& coordinator = simulation.coordinator();
  Progress start = coordinator.progress(0);
  EXPECT_EQ(start.total, 4);
  EXPECT_DOUBLE_EQ(start.eta_seconds, 10);
  coordinator.on_message(0, WorkerMessage{}, 0);
  coordinator.on_message(1, WorkerMessage{}, 1);
  const Progress running = coordinator.progress(3);
  EXPECT_EQ(running.workers[0].task, "task 0");
  EXPECT_EQ(running.workers[1].task, "task 1");
  EXPECT_DOUBLE_EQ(running.workers[1].since_seconds, 1);
  EXPECT_DOUBLE_EQ(running.workers[1].busy_seconds, 2);
  EXPECT_DOUBLE_EQ(running.eta_seconds, (5 + 4 + 4 + 2) / 2.0);
  WorkerMessage done;
  done.kind = WorkerMessage::Kind::done;
  done.task = 1;
  done.seconds = 12;  // everything takes twice as long as thought
  coordinator.on_message(1, done, 13);
  const Progress corrected = coordinator.progress(13);
  EXPECT_EQ(corrected.done, 1);
  EXPECT_EQ(corrected.workers[1].task, "task 2");
  EXPECT_DOUBLE_EQ(corrected.eta_seconds, (3 + 8 + 4) / 2.0 > 8 ? 7.5 : 8);
}

TEST(Coordinator, ProgressComesAtTheIntervalAndOnceAtTheEnd) {
  Simulation simulation(make_tasks({8}), 1, {.max_tries = 2, .progress_interval_seconds = 2});
  std::vector<double> times;
  simulation.events.progress = [&](const Progress& progress) { times.push_back(progress.elapsed_seconds); };
  Coordinator& coordinator = simulation.coordinator();
  coordinator.on_tick(0);
  coordinator.on_tick(1);
  coordinator.on_tick(2);
  EXPECT_EQ(coordinator.next_tick(), 4);
  simulation.run();
  EXPECT_THAT(times, ElementsAre(0, 2, 8));
}

TEST(Coordinator, MessagesThatCannotBeAreErrors) {
  Simulation simulation(make_tasks({8, 7}), 2);
  Coordinator& coordinator = simulation.coordinator();
  coordinator.on_message(0, WorkerMessage{}, 0);
  EXPECT_THROW(coordinator.on_message(0, WorkerMessage{}, 0), core::Error);
  EXPECT_THROW(coordinator.on_message(2, WorkerMessage{}, 0), core::Error);
  WorkerMessage done;
  done.kind = WorkerMessage::Kind::done;
  done.task = 1;
  EXPECT_THROW(coordinator.on_message(0, done, 1), core::Error);
  WorkerMessage left;
  left.kind = WorkerMessage::Kind::left;
  EXPECT_THROW(coordinator.on_message(0, left, 1), core::Error);
}

}  // namespace
}  // namespace voronoi::sched
