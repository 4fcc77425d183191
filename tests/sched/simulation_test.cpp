// The coordinator over 1 to 1,024 simulated ranks that differ, straggle and fail.
#include "sched/simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "core/random.h"

namespace voronoi::sched {
namespace {

std::vector<Task> random_tasks(std::int64_t n, std::uint64_t seed) {
  const core::CounterRandom random(seed, 9);
  std::vector<Task> tasks;
  for (std::int64_t i = 0; i < n; ++i) {
    const double u = random.uniform(static_cast<std::uint64_t>(i));
    Task task;
    task.id = i;
    task.name = "task " + std::to_string(i);
    task.kind = "kind " + std::to_string(i % 4);
    task.predicted_seconds = 1 + 20 * u * u;
    tasks.push_back(std::move(task));
  }
  return tasks;
}

/// Every task ended well exactly once or was given up, and no rank ever ran two at once.
void expect_nothing_lost(const Simulation& simulation, const std::vector<Task>& tasks, int n_ranks) {
  std::multiset<std::int64_t> ended(simulation.done.begin(), simulation.done.end());
  ended.insert(simulation.quarantined.begin(), simulation.quarantined.end());
  ASSERT_EQ(ended.size(), tasks.size());
  for (const Task& task : tasks) EXPECT_EQ(ended.count(task.id), 1U) << task.name;
  std::map<std::int64_t, int> ok;
  std::map<int, double> free_from;
  for (const SimulatedRun& run : simulation.runs) {
    if (run.status == TaskStatus::ok) ++ok[run.id];
    for (const int member : run.members) {
      ASSERT_GE(member, 0);
      ASSERT_LT(member, n_ranks);
      EXPECT_GE(run.start, free_from[member]) << "rank " << member;
      free_from[member] = run.end;
    }
  }
  for (const std::int64_t id : simulation.done) EXPECT_EQ(ok[id], 1);
  EXPECT_EQ(simulation.finishes.size(), static_cast<std::size_t>(n_ranks));
}

TEST(SimulatedCluster, LosesNothingAtAnyNumberOfRanks) {
  for (const int n_ranks : {1, 2, 3, 7, 16, 64, 257, 1024}) {
    const std::vector<Task> tasks = random_tasks(2000, 3);
    Simulation simulation(tasks, n_ranks, {.max_tries = 4});
    simulation.behave({.seed = static_cast<std::uint64_t>(n_ranks),
                       .speed_spread = 0.3,
                       .noise = 0.1,
                       .straggler_probability = 0.02,
                       .straggler_factor = 8,
                       .failure_probability = 0.05});
    simulation.run();
    expect_nothing_lost(simulation, tasks, n_ranks);
    EXPECT_GT(simulation.failed.size(), 0U);
    EXPECT_LT(simulation.quarantined.size(), 4U);  // 2000 * 0.05^4 = 0.01
  }
}

TEST(SimulatedCluster, TenThousandTasksOverAThousandRanksStayNearTheBound) {
  const std::vector<Task> tasks = random_tasks(10000, 4);
  Simulation simulation(tasks, 1024);
  simulation.run();
  expect_nothing_lost(simulation, tasks, 1024);
  const SimulationSummary summary = summarize(simulation, tasks, 1024);
  EXPECT_GT(summary.efficiency(), 0.95);
  EXPECT_EQ(summary.lost, 0);
  EXPECT_EQ(summary.n_runs, 10000);
}

TEST(SimulatedCluster, TheSameSeedGivesTheSamePhase) {
  const std::vector<Task> tasks = random_tasks(500, 5);
  const auto play = [&](std::uint64_t seed) {
    Simulation simulation(tasks, 48, {.max_tries = 3});
    simulation.behave({.seed = seed, .speed_spread = 0.2, .noise = 0.2, .failure_probability = 0.1});
    simulation.run();
    std::vector<std::pair<std::int64_t, double>> runs;
    for (const SimulatedRun& run : simulation.runs) runs.emplace_back(run.id, run.end);
    return runs;
  };
  EXPECT_EQ(play(1), play(1));
  EXPECT_NE(play(1), play(2));
}

TEST(SimulatedCluster, AFailureIsRetriedOnAnotherRankAndCountsAsLost) {
  const std::vector<Task> tasks = random_tasks(300, 6);
  Simulation simulation(tasks, 16, {.max_tries = 5});
  simulation.behave({.seed = 1, .failure_probability = 0.2});
  simulation.run();
  expect_nothing_lost(simulation, tasks, 16);
  std::map<std::int64_t, std::vector<int>> ranks;
  for (const SimulatedRun& run : simulation.runs) ranks[run.id].push_back(run.members.front());
  std::size_t retried = 0;
  for (const auto& [id, tried] : ranks) {
    if (tried.size() > 1) ++retried;
    EXPECT_EQ(std::set<int>(tried.begin(), tried.end()).size(), tried.size())
        << "task " << id << " came back to a rank";
  }
  EXPECT_GT(retried, 20U);
  EXPECT_GT(summarize(simulation, tasks, 16).lost, 0);
}

TEST(SimulatedCluster, SlowRanksGetLessAndHoldNobodyUp) {
  const std::vector<Task> tasks = random_tasks(3000, 7);
  Simulation simulation(tasks, 32);
  simulation.execute = [](const Task& task, const std::vector<int>& members, int) {
    return RunResult{wall_seconds(task, task.width) * (members.front() < 4 ? 5 : 1), {}, {}};
  };
  simulation.run();
  expect_nothing_lost(simulation, tasks, 32);
  double work = 0;
  for (const Task& task : tasks) work += task.predicted_seconds;
  // 28 ranks of speed 1 and 4 of a fifth; the last task may start on a slow one.
  EXPECT_LT(simulation.end, 1.02 * work / (28 + 4 / 5.0) + 5 * 1.1);
}

TEST(SimulatedCluster, AStragglerDelaysThePhaseByItselfAlone) {
  const std::vector<Task> tasks = random_tasks(3000, 8);
  double work = 0;
  for (const Task& task : tasks) work += task.predicted_seconds;
  Simulation simulation(tasks, 64);
  simulation.execute = [](const Task& task, const std::vector<int>&, int) {
    return RunResult{task.predicted_seconds * (task.id == 17 ? 20 : 1), {}, {}};
  };
  simulation.run();
  expect_nothing_lost(simulation, tasks, 64);
  EXPECT_LT(simulation.end, std::max(1.05 * (work + 420) / 64, work / 64 + 20.0 * 21));
}

TEST(SimulatedCluster, WideTasksOfUnequalRanksEndToo) {
  std::vector<Task> tasks = random_tasks(200, 9);
  for (std::size_t i = 0; i < tasks.size(); ++i) tasks[i].width = 1 + static_cast<int>(i % 7);
  Simulation simulation(tasks, 20, {.max_tries = 4});
  simulation.behave(
      {.seed = 3, .speed_spread = 0.4, .noise = 0.3, .straggler_probability = 0.05, .failure_probability = 0.05});
  simulation.run();
  expect_nothing_lost(simulation, tasks, 20);
}

/// A window of `blocks` blocks as large models have it: four sites a block with these relative costs.
std::vector<Task> window_of(int blocks, double serial_share) {
  constexpr double kSeconds[] = {10, 8, 56, 34};
  std::vector<Task> tasks;
  for (int block = 0; block < blocks; ++block)
    for (int site = 0; site < 4; ++site) {
      Task task;
      task.id = static_cast<std::int64_t>(tasks.size());
      task.name = "block " + std::to_string(block) + " site " + std::to_string(site);
      task.kind = "site " + std::to_string(site);
      task.predicted_seconds = kSeconds[site];
      task.serial_seconds = serial_share * kSeconds[site];
      task.pieces = 64;
      tasks.push_back(std::move(task));
    }
  return tasks;
}

TEST(SimulatedCluster, FewLongTasksOverManyRanksStayNearTheBoundByTheirWidths) {
  for (const auto& [blocks, n_ranks] : {std::pair{4, 8}, {4, 16}, {16, 64}, {80, 64}, {32, 128}}) {
    std::vector<Task> tasks = window_of(blocks, 0.0);
    const std::vector<int> widths = choose_widths(tasks, n_ranks);
    for (std::size_t i = 0; i < tasks.size(); ++i) tasks[i].width = widths[i];
    Simulation simulation(tasks, n_ranks);
    simulation.run();
    expect_nothing_lost(simulation, tasks, n_ranks);
    EXPECT_GT(summarize(simulation, tasks, n_ranks).efficiency(), 0.95) << blocks << " blocks on " << n_ranks;
  }
}

}  // namespace
}  // namespace voronoi::sched
