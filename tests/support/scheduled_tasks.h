// Tasks for schedulers, and what holds of any phase that ended well.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "sched/simulation.h"

namespace voronoi::test {

inline std::vector<sched::Task> make_tasks(const std::vector<double>& seconds, const std::vector<int>& widths = {}) {
  std::vector<sched::Task> tasks;
  for (std::size_t i = 0; i < seconds.size(); ++i)
    tasks.push_back({static_cast<std::int64_t>(i), "task " + std::to_string(i), "kind", seconds[i],
                     i < widths.size() ? widths[i] : 1});
  return tasks;
}

inline void expect_each_done_once(const sched::Simulation& simulation, std::int64_t n) {
  auto done = simulation.done;
  std::sort(done.begin(), done.end());
  std::vector<std::int64_t> all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(done, all);
}

}  // namespace voronoi::test
