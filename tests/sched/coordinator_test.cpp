#include "sched/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "sched/simulation.h"
#include "support/scheduled_tasks.h"

namespace voronoi::sched {
namespace {

using test::expect_each_done_once;
using test::make_tasks;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

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
