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
