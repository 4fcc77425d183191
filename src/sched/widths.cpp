// How wide tasks should be: the coordinator itself is asked, by simulation.
#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"
#include "sched/simulation.h"

namespace voronoi::sched {
namespace {

// Tasks that all are shorter than this share of an even share end nearly together whatever is done.
constexpr double kShortTask = 0.02;
// Another choice must be better by this much: teams have costs that no prediction counts.
constexpr double kWorthwhile = 0.997;
// So near the bound the search ends.
constexpr double kNear = 1.01;
constexpr double kStep = 1.03, kCoarseStep = 1.2;
constexpr std::size_t kStarts = 5;
// Bounds the time of the search itself.
constexpr std::int64_t kLeastSimulations = 60, kMostSimulations = 600, kSimulatedTasks = 40000;

/// The least width that brings the task under `seconds`, or the one that comes nearest.
int width_for(const Task& task, double seconds, int n_ranks) {
  int best = 1;
  for (int width = 1; width <= n_ranks && wall_seconds(task, best) > seconds; ++width)
    if (wall_seconds(task, width) < wall_seconds(task, best)) best = width;
  return best;
}

/// Least rank-seconds of the task at a width that ends by `seconds`; infinite when there is none.
double least_area(const Task& task, double seconds, int n_ranks) {
  double least = std::numeric_limits<double>::infinity();
  for (int width = 1; width <= n_ranks; ++width) {
    const double wall = wall_seconds(task, width);
    if (wall <= seconds) least = std::min(least, wall * width);
    if (wall <= seconds && task.pieces > 0 && width >= task.pieces) break;  // no wider one is quicker
  }
  return least;
}

class WidthSearch {
 public:
  WidthSearch(const std::vector<Task>& tasks, int n_ranks)
      : tasks_(tasks),
        n_ranks_(n_ranks),
        most_simulations_(
            std::clamp(kSimulatedTasks / (std::ssize(tasks) + n_ranks), kLeastSimulations, kMostSimulations)),
        best_(tasks.size(), 1),
        best_seconds_(phase_seconds(best_)) {}

  std::vector<int> search(double longest, double bound) {
    // One limit for all, from the bound up to the longest task.
    std::vector<std::pair<double, std::vector<int>>> starts{{best_seconds_, best_}};
    for (double limit = bound; limit < longest && !near(bound); limit *= kStep) {
      std::vector<int> widths;
      for (const Task& task : tasks_) widths.push_back(width_for(task, limit, n_ranks_));
      if (widths == starts.back().second) continue;
      starts.emplace_back(consider(widths), std::move(widths));
    }
    // And below it: everything wide and one after the other wastes nothing where sharing costs nothing.
    for (double limit = bound / kCoarseStep; limit > bound / 16 && !near(bound); limit /= kCoarseStep) {
      std::vector<int> widths;
      for (const Task& task : tasks_) widths.push_back(width_for(task, limit, n_ranks_));
      if (least_seconds(widths) >= best_seconds_) continue;
      starts.emplace_back(consider(widths), std::move(widths));
    }
    // From the best of these, one group of like tasks after the other as long as it helps: what is dear to share may
    // stay narrow.
    std::stable_sort(starts.begin(), starts.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (std::size_t i = 0; i < std::min(kStarts, starts.size()) && !near(bound); ++i)
      descend(starts[i].first, starts[i].second, bound);
    return best_;
  }

 private:
  static constexpr std::array<int, 14> kWidths{1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 16, 22, 32, 64};

  bool near(double bound) const { return best_seconds_ <= kNear * bound || n_simulated_ >= most_simulations_; }

  void descend(double seconds, std::vector<int> widths, double bound) {
    const auto groups = like_tasks();
    for (bool better = true; better && !near(bound);) {
      better = false;
      for (const auto& group : groups)
        for (const int width : kWidths) {
          if (width > n_ranks_ || near(bound)) break;
          std::vector<int> changed = widths;
          for (const std::size_t i : group) changed[i] = width;
          if (changed == widths || least_seconds(changed) >= seconds) continue;
          const double now = consider(changed);
          if (!(now < kWorthwhile * seconds)) continue;
          seconds = now;
          widths = std::move(changed);
          better = true;
        }
    }
  }

  /// What no schedule with these widths beats.
  double least_seconds(const std::vector<int>& widths) const {
    double area = 0, longest = 0;
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const double wall = wall_seconds(tasks_[i], widths[i]);
      area += wall * widths[i];
      longest = std::max(longest, wall);
    }
    return std::max(area / n_ranks_, longest);
  }

  double consider(const std::vector<int>& widths) {
    const double seconds = phase_seconds(widths);
    if (seconds < kWorthwhile * best_seconds_) {
      best_seconds_ = seconds;
      best_ = widths;
    }
    return seconds;
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
    groups.reserve(by_cost.size());
    for (auto& [cost, group] : by_cost) groups.push_back(std::move(group));
    return groups;
  }

  const std::vector<Task>& tasks_;
  int n_ranks_;
  std::int64_t n_simulated_ = 0, most_simulations_;
  std::vector<int> best_;
  double best_seconds_;
};

}  // namespace

double phase_bound(const std::vector<Task>& tasks, int n_ranks) {
  VORONOI_REQUIRE(n_ranks >= 1, "a phase needs a rank");
  double low = 0, high = 0;
  for (const Task& task : tasks) high += wall_seconds(task, 1);
  const auto fits = [&](double seconds) {
    double area = 0;
    for (const Task& task : tasks) area += least_area(task, seconds, n_ranks);
    return area <= seconds * n_ranks;
  };
  constexpr int kHalvings = 40;
  for (int i = 0; i < kHalvings; ++i) (fits((low + high) / 2) ? high : low) = (low + high) / 2;
  return high;
}

std::vector<int> choose_widths(const std::vector<Task>& tasks, int n_ranks) {
  VORONOI_REQUIRE(n_ranks >= 1, "a phase needs a rank");
  double total = 0, longest = 0;
  for (const Task& task : tasks) {
    total += wall_seconds(task, 1);
    longest = std::max(longest, wall_seconds(task, 1));
  }
  if (n_ranks == 1 || longest <= kShortTask * total / n_ranks) return std::vector<int>(tasks.size(), 1);
  return WidthSearch(tasks, n_ranks).search(longest, phase_bound(tasks, n_ranks));
}

}  // namespace voronoi::sched
