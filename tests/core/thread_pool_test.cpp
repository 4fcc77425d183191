#include "core/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"

namespace voronoi::core {
namespace {

class ThreadPoolOf : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolOf, testing::Values(1, 2, 3, 8));

TEST_P(ThreadPoolOf, RunsEachIndexOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.size(), GetParam());
  for (const std::int64_t n : {0, 1, 2, 7, 1000}) {
    std::vector<std::atomic<int>> counts(static_cast<std::size_t>(n) + 1);
    pool.parallel_for(n, [&](std::int64_t i) { ++counts[static_cast<std::size_t>(i)]; });
    for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(counts[static_cast<std::size_t>(i)], 1) << i << " of " << n;
    ASSERT_EQ(counts.back(), 0);
  }
  pool.parallel_for(-5, [](std::int64_t) { FAIL(); });
}

TEST_P(ThreadPoolOf, ManyShortLoopsInARow) {
  ThreadPool pool(GetParam());
  std::atomic<std::int64_t> sum{0};
  for (int repeat = 0; repeat < 2000; ++repeat) pool.parallel_for(3, [&](std::int64_t i) { sum += i + 1; });
  EXPECT_EQ(sum, 2000 * 6);
}

TEST_P(ThreadPoolOf, ErrorOfTheLowestIndexIsRethrownAfterAllHaveEnded) {
  ThreadPool pool(GetParam());
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::atomic<int> calls{0};
    try {
      pool.parallel_for(100, [&](std::int64_t i) {
        ++calls;
        if (i % 10 == 7) throw NumericError("index " + std::to_string(i));
      });
      FAIL() << "no exception";
    } catch (const NumericError& error) {
      ASSERT_STREQ(error.what(), "index 7");
    }
    ASSERT_EQ(calls, 100);
  }
  std::atomic<int> calls{0};
  pool.parallel_for(10, [&](std::int64_t) { ++calls; });
  EXPECT_EQ(calls, 10) << "the pool works on after an error";
}

TEST_P(ThreadPoolOf, AStopEndsALoopBeforeItsEnd) {
  ThreadPool pool(GetParam());
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<int> looks{0}, calls{0}, own_calls{0};
  bool stranger = false;
  pool.stop_when(
      [&] {
        stranger |= std::this_thread::get_id() != caller;
        return ++looks >= 50;
      },
      std::chrono::nanoseconds{0});
  const auto inner = [&](std::int64_t) {
    ++calls;
    if (std::this_thread::get_id() == caller)
      ++own_calls;
    else  // the others leave the caller something to do
      while (looks < 50 && own_calls < 1000) std::this_thread::yield();
  };
  const auto outer = [&](std::int64_t) { pool.parallel_for(1000, inner); };
  EXPECT_THROW(pool.parallel_for(1000, outer), StopRequested);
  EXPECT_EQ(looks, 50) << "once it is known nobody asks again";
  EXPECT_GT(own_calls, 0);
  EXPECT_LT(own_calls, 50);
  EXPECT_LT(calls, 1000 * 1000);
  EXPECT_FALSE(stranger);
  calls = 0;
  EXPECT_THROW(pool.parallel_for(1, inner), StopRequested);
  EXPECT_EQ(calls, 0) << "still asked for";
  pool.stop_when(nullptr);
  pool.parallel_for(10, inner);
  EXPECT_EQ(calls, 10);
}

TEST_P(ThreadPoolOf, AStopHidesNoError) {
  ThreadPool pool(GetParam());
  std::atomic<bool> stop{false};
  pool.stop_when([&] { return stop.load(); }, std::chrono::nanoseconds{0});
  const auto fails = [&](std::int64_t i) {
    if (i != 3) return;
    stop = true;
    throw NumericError("index 3");
  };
  EXPECT_THROW(pool.parallel_for(1000, fails), NumericError);
}

TEST(ThreadPool, AsksNoMoreOftenThanItIsToldTo) {
  ThreadPool pool(1);  // of several threads the caller may get no body
  int looks = 0;
  pool.stop_when([&] { return ++looks > 1; }, std::chrono::hours{1});
  pool.parallel_for(1000, [](std::int64_t) {});
  EXPECT_EQ(looks, 1);
}

TEST_P(ThreadPoolOf, InnerLoopRunsOnItsOwnThread) {
  ThreadPool pool(GetParam());
  std::atomic<int> calls{0}, strangers{0};
  pool.parallel_for(8, [&](std::int64_t) {
    const std::thread::id mine = std::this_thread::get_id();
    pool.parallel_for(8, [&](std::int64_t) {
      ++calls;
      if (std::this_thread::get_id() != mine) ++strangers;
    });
  });
  EXPECT_EQ(calls, 64);
  EXPECT_EQ(strangers, 0);
}

TEST(ThreadPool, SeveralThreadsDoTakePart) {
  ThreadPool pool(2);
  std::atomic<int> waiting{0};
  // Each of the two bodies waits for the other: with one thread this would never end.
  pool.parallel_for(2, [&](std::int64_t) {
    ++waiting;
    while (waiting < 2) std::this_thread::yield();
  });
  EXPECT_EQ(waiting, 2);
}

TEST(ThreadPool, RefusesNoThreads) {
  EXPECT_THROW(ThreadPool(0), InternalError);
  EXPECT_THROW(ThreadPool(-1), InternalError);
}

}  // namespace
}  // namespace voronoi::core
