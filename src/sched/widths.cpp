// How wide tasks should be: the coordinator itself is asked, by simulation.
#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "sched/simulation.h"

namespace voronoi::sched {
namespace {

// Tasks that all are shorter than this share of an even share end nearly together whatever is done.
constexpr double kShortTask = 0.02;
// Another choice must be better by this much: teams have costs that no prediction counts.
constexpr double kWorthwhile = 0.997;
// At most so many phases are tried.
constexpr int kSimulations = 400;

/// The least width that brings the task under `seconds`, or the one that comes nearest.
int width_for(const Task& task, double seconds, int n_ranks) {
  int best = 1;
  for (int width = 1; width <= n_ranks; ++width) {
    if (wall_seconds(task, width) < wall_seconds(task, best)) best = width;
    if (wall_seconds(task, best) <= seconds) break;
  }
  return best;
}

class WidthSearch {
 public:
  WidthSearch(const std::vector<Task>& tasks, int n_ranks)
      : tasks_(tasks), n_ranks_(n_ranks), best_(tasks.size(), 1), best_seconds_(phase_seconds(best_)) {}

  std::vector<int> search(double longest, double share) {
    // One limit for all, from the longest task down to a fraction of an even share.
    std::vector<int> tried = best_;
    for (double limit = longest; limit > share / 16; limit *= 0.93) {
      std::vector<int> widths;
      for (const Task& task : tasks_) widths.push_back(width_for(task, limit, n_ranks_));
      if (widths == tried) continue;
      tried = widths;
      consider(std::move(widths));
    }
    // Then one group of like tasks after the other, as long as it helps: what is dear to share may stay narrow.
    const auto groups = like_tasks();
    for (bool better = true; better && n_simulated_ < kSimulations;) {
      better = false;
      for (const auto& group : groups)
        for (const int width : kWidths) {
          if (width > n_ranks_ || n_simulated_ >= kSimulations) break;
          std::vector<int> widths = best_;
          for (const std::size_t i : group) widths[i] = width;
          if (widths != best_) better |= consider(std::move(widths));
        }
    }
    return best_;
  }

 private:
  static constexpr std::array<int, 14> kWidths{1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 16, 22, 32, 64};

  bool consider(std::vector<int> widths) {
    const double seconds = phase_seconds(widths);
    if (!(seconds < kWorthwhile * best_seconds_)) return false;
    best_seconds_ = seconds;
    best_ = std::move(widths);
    return true;
  }

  double phase_seconds(const std::vector<int>& widths) {
    ++n_simulated_;
    std::vector<Task> tasks = tasks_;
    for (std::size_t i = 0; i < tasks.size(); ++i) tasks[i].width = widths[i];
    Simulation simulation(std::move(tasks), n_ranks_);
    simulation.run();
    return simulation.end;
  }

  std::vector<std::vector<std::size_t>> like_tasks() const {
    std::map<std::tuple<std::string, double, double, double, std::int64_t>, std::vector<std::size_t>> by_cost;
    for (std::size_t i = 0; i < tasks_.size(); ++i) {
      const Task& task = tasks_[i];
      by_cost[{task.kind, wall_seconds(task, 1), task.serial_seconds, task.team_seconds, task.pieces}].push_back(i);
    }
    std::vector<std::vector<std::size_t>> groups;
    for (auto& [cost, group] : by_cost) groups.push_back(std::move(group));
    return groups;
  }

  const std::vector<Task>& tasks_;
  int n_ranks_, n_simulated_ = 0;
  std::vector<int> best_;
  double best_seconds_;
};

}  // namespace

std::vector<int> choose_widths(const std::vector<Task>& tasks, int n_ranks) {
  VORONOI_REQUIRE(n_ranks >= 1, "a phase needs a rank");
  double total = 0, longest = 0;
  for (const Task& task : tasks) {
    total += wall_seconds(task, 1);
    longest = std::max(longest, wall_seconds(task, 1));
  }
  const double share = total / n_ranks;
  if (n_ranks == 1 || longest <= kShortTask * share) return std::vector<int>(tasks.size(), 1);
  return WidthSearch(tasks, n_ranks).search(longest, share);
}

}  // namespace voronoi::sched
