#include "sched/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <thread>

#include "core/error.h"
#include "core/thread_pool.h"

namespace voronoi::sched {
namespace {

void sleep_seconds(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

std::vector<Task> make_tasks(int n, const std::function<double(int)>& seconds,
                             const std::function<int(int)>& width = nullptr) {
  std::vector<Task> tasks;
  for (int i = 0; i < n; ++i)
    tasks.push_back({i, "task " + std::to_string(i), i % 2 ? "odd" : "even", seconds(i), width ? width(i) : 1});
  return tasks;
}

/// run_phase with everything recorded: what the sink saw (rank 0) and what every rank ran.
struct Phase {
  const comm::Communicator world = comm::Communicator::world();
  CostModel cost_model;
  CoordinatorEvents events;
  SchedulerOptions options{.max_tries = 2, .progress_interval_seconds = 0.05};
  std::function<bool()> stop;
  std::vector<std::int64_t> done;
  std::vector<std::pair<std::int64_t, int>> failed;  ///< task, rank
  std::vector<std::string> errors, reports;
  std::vector<std::int64_t> mine;  ///< tasks run by this rank, in order
  int n_progress = 0;

  Phase() {
    events.task_done = [this](const Task& task, const Outcome& outcome, int) {
      done.push_back(task.id);
      reports.push_back(outcome.report);
    };
    events.task_failed = [this](const Task& task, const Outcome& outcome, int rank, int) {
      failed.emplace_back(task.id, rank);
      errors.push_back(outcome.report);
    };
    events.progress = [this](const Progress& progress) {
      ++n_progress;
      EXPECT_EQ(std::ssize(progress.workers), world.size());
      EXPECT_GE(progress.eta_seconds, 0);
    };
  }

  PhaseResult run(const std::vector<Task>& tasks, const TaskCallback& callback) {
    return run_phase(
        world, tasks,
        [&](const Task& task, core::Team& team) {
          mine.push_back(task.id);
          return callback(task, team);
        },
        events, cost_model, options, stop);
  }

  void expect_each_done_once(std::int64_t n) const {
    if (world.rank() != 0) return;
    auto sorted = done;
    std::sort(sorted.begin(), sorted.end());
    std::vector<std::int64_t> all(static_cast<std::size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(sorted, all);
  }

  std::int64_t runs_of_all_ranks() const {
    std::int64_t sum = 0;
    for (const auto n : world.all_gather_value(std::ssize(mine))) sum += n;
    return sum;
  }
};

TEST(RunPhase, TwoThousandTinyTasksRunOnceEach) {
  Phase phase;
  constexpr int kTasks = 2000;
  const auto tasks = make_tasks(kTasks, [](int i) { return 1e-6 * (i + 1); });
  const auto start = std::chrono::steady_clock::now();
  const auto result = phase.run(tasks, [](const Task& task, core::Team&) { return "done " + std::to_string(task.id); });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_FALSE(result.stopped);
  EXPECT_TRUE(result.quarantined.empty());
  phase.expect_each_done_once(kTasks);
  EXPECT_EQ(phase.runs_of_all_ranks(), kTasks);
  if (phase.world.rank() == 0) {
    for (std::size_t i = 0; i < phase.done.size(); ++i)
      EXPECT_EQ(phase.reports[i], "done " + std::to_string(phase.done[i]));
    EXPECT_GE(phase.n_progress, 1);
    std::printf("overhead: %.1f us a task on %d ranks\n", 1e6 * seconds / kTasks, phase.world.size());
  }
}

// CPU time, not wall time, and a bound several times what is measured (tests/bench/many_layers): about 5 us of
// messages, and a look-out every 5 ms.
TEST(RunPhase, TenThousandTasksCostTheCoordinatorLittleAndNoRankWaitsLong) {
  Phase phase;
  constexpr int kTasks = 10000;
  const auto tasks = make_tasks(kTasks, [](int i) { return 5e-4 + 1e-9 * i; });
  phase.reports.reserve(kTasks);
  std::int64_t report_bytes = 0;
  phase.events.task_done = [&](const Task& task, const Outcome& outcome, int) {
    phase.done.push_back(task.id);
    report_bytes += std::ssize(outcome.report);
  };
  const PhaseResult result = phase.run(tasks, [](const Task&, core::Team&) {
    sleep_seconds(5e-4);
    return std::string(500, 'r');
  });
  phase.expect_each_done_once(kTasks);
  EXPECT_EQ(phase.runs_of_all_ranks(), kTasks);
  if (phase.world.rank() != 0) return;
  EXPECT_EQ(report_bytes, 500 * kTasks);
  EXPECT_EQ(result.cost.n_tasks, kTasks);
  EXPECT_GE(result.cost.task_seconds, 5e-4 * kTasks);
  EXPECT_LT(result.cost.coordinator_seconds, 200e-6 * kTasks);
  std::printf("%d ranks: coordinator %.1f us of CPU a task, ranks wait %.1f us a task\n", phase.world.size(),
              1e6 * result.cost.coordinator_seconds / kTasks, 1e6 * result.cost.waiting_seconds / kTasks);
}

TEST(RunPhase, EveryRankTakesPartAndOneRankGoesLongestFirst) {
  Phase phase;
  auto tasks = make_tasks(24, [](int i) { return 0.002 * ((i * 7) % 24 + 1); });
  // Of one kind: what tasks really take, which depends on the machine's load, then leaves their order as it is.
  for (Task& task : tasks) task.kind = "kind";
  phase.run(tasks, [&](const Task& task, core::Team& team) {
    EXPECT_EQ(team.size(), 1);
    if (phase.mine.size() == 1) phase.world.barrier();  // a first task on every rank, or nobody gets past it
    sleep_seconds(task.predicted_seconds);
    return std::string();
  });
  phase.expect_each_done_once(24);
  EXPECT_GT(phase.mine.size(), 0U);
  for (std::size_t i = 0; i + 1 < phase.mine.size(); ++i) {
    EXPECT_GT(tasks[static_cast<std::size_t>(phase.mine[i])].predicted_seconds,
              tasks[static_cast<std::size_t>(phase.mine[i + 1])].predicted_seconds);
  }
}

TEST(RunPhase, FewerTasksThanRanksAndNoneAtAllEnd) {
  for (int n = 0; n < 3; ++n) {
    Phase phase;
    const auto result =
        phase.run(make_tasks(n, [](int) { return 1.0; }), [](const Task&, core::Team&) { return std::string("x"); });
    EXPECT_FALSE(result.stopped);
    phase.expect_each_done_once(n);
    EXPECT_EQ(phase.runs_of_all_ranks(), n);
  }
}

TEST(RunPhase, WideTasksRunOnTeamsAndWidthsBeyondTheWorldAreClipped) {
  Phase phase;
  const int n_ranks = phase.world.size();
  const auto tasks = make_tasks(
      30, [](int i) { return 0.001 * (i % 5); }, [](int i) { return i % 3 == 0   ? 1
                                                                    : i % 3 == 1 ? 2
                                                                                 : 99; });
  const auto result = phase.run(tasks, [&](const Task& task, core::Team& team) {
    const int asked = task.id % 3 == 0 ? 1 : task.id % 3 == 1 ? 2 : 99;
    EXPECT_EQ(team.size(), std::min(asked, n_ranks));
    EXPECT_EQ(task.width, team.size());
    int sum = 0;
    for (int round = 0; round < 3; ++round) {
      const auto value = static_cast<std::byte>(team.rank() + 1);
      for (const auto& bytes : team.all_gather(std::span(&value, 1))) sum += static_cast<int>(bytes.at(0));
    }
    EXPECT_EQ(sum, 3 * team.size() * (team.size() + 1) / 2);
    return "rank " + std::to_string(team.rank());
  });
  EXPECT_TRUE(result.quarantined.empty());
  phase.expect_each_done_once(30);
  for (const auto& report : phase.reports) EXPECT_EQ(report, "rank 0");
}

TEST(RunPhase, AWideTaskWhoseMembersFailAtDifferentMomentsIsRetriedAndAllAgree) {
  Phase phase;
  const int n_ranks = phase.world.size();
  phase.options.max_tries = 2;
  // Task i: member i % size fails at collective i / size (the last: after all), on the first try of that member.
  std::vector<int> tries(40, 0);
  const auto tasks = make_tasks(
      5 * n_ranks, [](int) { return 0.001; }, [&](int) { return n_ranks; });
  const auto result = phase.run(tasks, [&](const Task& task, core::Team& team) {
    const auto id = static_cast<int>(task.id);
    const bool fails = ++tries[static_cast<std::size_t>(id)] == 1 && team.rank() == id % n_ranks;
    for (int round = 0; round < 4; ++round) {
      if (fails && round == id / n_ranks) throw core::NumericError("pivot");
      if (round % 2 == 0 && team.rank() == 0) sleep_seconds(0.001);
      team.all_gather(std::as_bytes(std::span(&id, 1)));
    }
    if (fails) throw core::NumericError("pivot");
    return std::string();
  });
  EXPECT_TRUE(result.quarantined.empty());
  phase.expect_each_done_once(5 * n_ranks);
  EXPECT_EQ(std::ssize(phase.mine), 10 * n_ranks);
  if (phase.world.rank() != 0) return;
  ASSERT_EQ(std::ssize(phase.failed), 5 * n_ranks);
  for (std::size_t i = 0; i < phase.failed.size(); ++i) {
    const auto culprit = static_cast<int>(phase.failed[i].first) % n_ranks;
    EXPECT_EQ(phase.failed[i].second, culprit);
    EXPECT_EQ(phase.errors[i], n_ranks == 1 ? "pivot" : "rank " + std::to_string(culprit) + ": pivot");
  }
}

TEST(RunPhase, AFailedTaskIsRetriedElsewhereAndThenQuarantined) {
  Phase phase;
  std::vector<std::int64_t> quarantined;
  phase.events.task_quarantined = [&](const Task& task, const std::string& error) {
    quarantined.push_back(task.id);
    EXPECT_EQ(error, "bad weights");
  };
  const auto tasks = make_tasks(20, [](int i) { return 0.001 * i; });
  const auto result = phase.run(tasks, [](const Task& task, core::Team&) -> std::string {
    if (task.id % 5 == 0) throw std::runtime_error("bad weights");
    return {};
  });
  EXPECT_EQ(result.quarantined, (std::vector<std::int64_t>{0, 5, 10, 15}));
  if (phase.world.rank() != 0) return;
  std::sort(quarantined.begin(), quarantined.end());
  EXPECT_EQ(quarantined, result.quarantined);
  EXPECT_EQ(phase.done.size(), 16U);
  ASSERT_EQ(phase.failed.size(), 8U);
  std::sort(phase.failed.begin(), phase.failed.end());
  for (std::size_t i = 0; i < 8; i += 2) {
    EXPECT_EQ(phase.failed[i].first, phase.failed[i + 1].first);
    if (phase.world.size() > 1) {
      EXPECT_NE(phase.failed[i].second, phase.failed[i + 1].second);
    }
  }
}

TEST(RunPhase, AllTasksFailingEnds) {
  Phase phase;
  const auto tasks = make_tasks(
      9, [](int) { return 0.0; }, [](int i) { return 1 + i % 3; });
  const auto result = phase.run(tasks, [](const Task&, core::Team&) -> std::string { throw 7; });
  EXPECT_EQ(result.quarantined.size(), 9U);
  EXPECT_FALSE(result.stopped);
}

TEST(RunPhase, AStopBeforeTheStartRunsNothing) {
  Phase phase;
  phase.stop = [] { return true; };
  const auto result =
      phase.run(make_tasks(5, [](int) { return 1.0; }), [](const Task&, core::Team&) { return std::string(); });
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(phase.runs_of_all_ranks(), 0);
}

TEST(RunPhase, AStopOnAnyOneRankStopsAllAfterTheTasksInFlight) {
  for (int stopping = 0; stopping < comm::Communicator::world().size(); ++stopping) {
    Phase phase;
    std::atomic<bool> asked{false};
    phase.stop = [&] { return asked.load(); };
    const auto result = phase.run(make_tasks(1000, [](int) { return 0.002; }), [&](const Task&, core::Team&) {
      sleep_seconds(0.002);
      if (phase.world.rank() == stopping && phase.mine.size() == 5) asked = true;
      return std::string();
    });
    EXPECT_TRUE(result.stopped);
    const auto n_runs = phase.runs_of_all_ranks();
    EXPECT_GE(n_runs, 5);
    EXPECT_LT(n_runs, 1000);
    if (phase.world.rank() == stopping) {
      EXPECT_LE(phase.mine.size(), 6U);
    }
    if (phase.world.rank() == 0) {
      EXPECT_EQ(std::ssize(phase.done), n_runs);
    }
  }
}

TEST(RunPhase, AStopReachesIntoTheTasks) {
  Phase phase;
  const int n_ranks = phase.world.size();
  const auto start = std::chrono::steady_clock::now();
  phase.stop = [&] { return std::chrono::steady_clock::now() - start > std::chrono::milliseconds(100); };
  // Of the two members of a team only the lowest looks, in a loop of its threads; the others wait for it.
  core::ThreadPool pool(2);
  const auto result =
      phase.run(make_tasks(
                    3, [](int i) { return 100.0 - i; }, [&](int i) { return i == 0 ? std::min(2, n_ranks) : 1; }),
                [&](const Task&, core::Team& team) -> std::string {
                  const core::StopScope leaves(pool, [&] { return team.stop_requested(); });
                  for (int pass = 0; pass < 3000; ++pass) {
                    if (team.rank() == 0) pool.parallel_for(100, [](std::int64_t) { sleep_seconds(0.0001); });
                    sleep_seconds(0.005);
                    team.all_gather({});
                  }
                  return "to its end";
                });
  EXPECT_TRUE(result.stopped);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  EXPECT_TRUE(phase.done.empty());
  EXPECT_TRUE(phase.failed.empty());
  EXPECT_TRUE(result.quarantined.empty());
}

TEST(RunPhase, AnOverdueTaskIsDoneByAnotherRankAndTheFirstLeavesIt) {
  Phase phase;
  if (phase.world.size() == 1) GTEST_SKIP() << "there is no other rank";
  phase.options.overdue_seconds = 0.2;
  std::vector<int> overdue;
  phase.events.task_overdue = [&](const Task&, int rank, double, int other) {
    overdue.push_back(rank);
    overdue.push_back(other);
  };
  // All begin with the wide task; the one that comes after it never ends on rank 1.
  bool cancelled = false;
  const auto result = phase.run(
      make_tasks(
          3 * phase.world.size(), [](int) { return 0.05; }, [&](int i) { return i == 0 ? phase.world.size() : 1; }),
      [&](const Task&, core::Team& team) -> std::string {
        sleep_seconds(0.05);
        if (phase.mine.size() != 2 || phase.world.rank() != 1) return "rank " + std::to_string(phase.world.rank());
        try {
          for (;;) {
            team.check_stop();
            sleep_seconds(0.001);
          }
        } catch (const core::StopRequested&) {
          cancelled = true;
          throw;
        }
      });
  EXPECT_FALSE(result.stopped);
  EXPECT_TRUE(phase.failed.empty());
  phase.expect_each_done_once(3 * phase.world.size());
  if (phase.world.rank() == 1) {
    EXPECT_TRUE(cancelled);
  }
  if (phase.world.rank() == 0) {
    ASSERT_EQ(overdue.size(), 2U);
    EXPECT_EQ(overdue[0], 1);
    EXPECT_NE(overdue[1], 1);
  }
}

TEST(RunPhase, AnIdleRankMayAskForTheStop) {
  Phase phase;
  const int n_ranks = phase.world.size();
  if (n_ranks == 1) return;  // it is not idle while it works
  // After a wide task that all wait for, every rank but one has a long task; the last one's fails, and its retry waits
  // for another rank.
  const auto tasks = make_tasks(
      n_ranks + 1, [&](int i) { return i == n_ranks ? 0.1 : 1.0; }, [&](int i) { return i == 0 ? n_ranks : 1; });
  auto failed_at = std::chrono::steady_clock::time_point::max();
  std::atomic<bool> failed{false};
  phase.stop = [&] { return failed && std::chrono::steady_clock::now() - failed_at > std::chrono::milliseconds(50); };
  const auto result = phase.run(tasks, [&](const Task& task, core::Team&) -> std::string {
    if (task.id == n_ranks) {
      failed_at = std::chrono::steady_clock::now();
      failed = true;
      throw core::NumericError("pivot");
    }
    if (task.id > 0) sleep_seconds(0.5);
    return {};
  });
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(phase.runs_of_all_ranks(), 2 * n_ranks);  // the wide one on each, n_ranks - 1 long ones, one failure
}

TEST(RunPhase, StopRequestedByACallbackIsAStopAndNoFailure) {
  for (const int width : {1, 3}) {
    Phase phase;
    const auto tasks = make_tasks(
        50, [](int) { return 0.001; }, [&](int) { return width; });
    const auto result = phase.run(tasks, [&](const Task&, core::Team& team) -> std::string {
      if (phase.mine.size() == 3 && team.rank() == team.size() - 1) throw core::StopRequested();
      team.all_gather({});
      return {};
    });
    EXPECT_TRUE(result.stopped);
    EXPECT_TRUE(result.quarantined.empty());
    EXPECT_TRUE(phase.failed.empty());
    if (phase.world.rank() == 0) {
      EXPECT_LT(phase.done.size(), 50U);
    }
  }
}

TEST(RunPhase, AnErrorOfTheSinkIsThrownOnEveryRank) {
  Phase phase;
  int calls = 0;
  phase.events.task_done = [&](const Task&, const Outcome&, int) {
    if (++calls == 4) throw core::FormatError("journal", "no space left on device");
  };
  const auto tasks = make_tasks(4000, [](int) { return 0.001; });
  try {
    phase.run(tasks, [](const Task&, core::Team&) {
      sleep_seconds(0.001);
      return std::string();
    });
    ADD_FAILURE() << "nothing was thrown";
  } catch (const PhaseError& error) {
    EXPECT_EQ(error.exit_code(), core::ExitCode::data);
    EXPECT_STREQ(error.what(), "journal: no space left on device");
  }
  if (phase.world.rank() == 0) {
    EXPECT_EQ(calls, 4);
  }
  EXPECT_LT(phase.runs_of_all_ranks(), 4000);
}

TEST(RunPhase, AnErrorOfTheLastCommitIsThrownOnEveryRank) {
  Phase phase;
  phase.events.commit = [] { throw core::StoreError("journal: cannot sync"); };
  EXPECT_THROW(
      phase.run(make_tasks(2, [](int) { return 1.0; }), [](const Task&, core::Team&) { return std::string(); }),
      core::Error);
}

TEST(RunPhase, EventsComeInOrderAndAreCommittedTogether) {
  Phase phase;
  std::int64_t n_events = 0, n_committed = 0, n_commits = 0;
  phase.events.task_done = [&](const Task&, const Outcome&, int) { ++n_events; };
  phase.events.commit = [&] {
    n_committed = n_events;
    ++n_commits;
  };
  constexpr int kTasks = 3000;
  phase.run(make_tasks(kTasks, [](int) { return 1e-4; }), [](const Task&, core::Team&) { return std::string(); });
  if (phase.world.rank() != 0) return;
  EXPECT_EQ(n_committed, kTasks);
  EXPECT_LT(n_commits, kTasks / 2);
}

TEST(RunPhase, DifferentListsAndRepeatedIdsAreRefusedOnEveryRank) {
  Phase phase;
  const auto nothing = [](const Task&, core::Team&) { return std::string(); };
  if (phase.world.size() > 1) {
    EXPECT_THROW(phase.run(make_tasks(phase.world.rank() == 1 ? 3 : 4, [](int) { return 1.0; }), nothing),
                 core::InternalError);
  }
  auto tasks = make_tasks(2, [](int) { return 1.0; });
  tasks[1].id = tasks[0].id;
  EXPECT_THROW(phase.run(tasks, nothing), core::InternalError);
}

TEST(RunPhase, ManyPhasesInARowLeaveNothingBehind) {
  for (int i = 0; i < 200; ++i) {
    Phase phase;
    phase.run(make_tasks(
                  3, [](int) { return 0.0; }, [](int k) { return k + 1; }),
              [](const Task&, core::Team&) { return std::string(); });
    phase.expect_each_done_once(3);
  }
}

TEST(RunPhase, ALargeReportArrivesWhole) {
  Phase phase;
  phase.run(make_tasks(6, [](int) { return 0.0; }),
            [](const Task& task, core::Team&) { return std::string(3000000, static_cast<char>('a' + task.id)); });
  for (std::size_t i = 0; i < phase.done.size(); ++i)
    EXPECT_EQ(phase.reports[i], std::string(3000000, static_cast<char>('a' + phase.done[i])));
}

}  // namespace
}  // namespace voronoi::sched
