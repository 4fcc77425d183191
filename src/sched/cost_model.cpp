#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "sched/scheduler.h"

namespace voronoi::sched {

double CostModel::predict(const Task& task) const {
  const double base = std::isfinite(task.predicted_seconds) && task.predicted_seconds > 0 ? task.predicted_seconds : 0;
  if (const auto it = ratios_.find(task.kind); it != ratios_.end())
    return base * (it->second.measured / it->second.predicted);
  Ratio all;
  for (const auto& [kind, ratio] : ratios_) {
    all.predicted += ratio.predicted;
    all.measured += ratio.measured;
  }
  return all.predicted > 0 ? base * (all.measured / all.predicted) : base;
}

void CostModel::observe(const Task& task, double seconds) {
  if (!std::isfinite(task.predicted_seconds) || task.predicted_seconds <= 0 || !std::isfinite(seconds) || seconds <= 0)
    return;
  Ratio& ratio = ratios_[task.kind];
  ratio.predicted += task.predicted_seconds;
  ratio.measured += seconds * std::max(1, task.width);
}

std::vector<int> choose_widths(const std::vector<double>& predicted_seconds, int n_ranks) {
  VORONOI_REQUIRE(n_ranks >= 1, "a phase needs a rank");
  double total = 0;
  for (const double seconds : predicted_seconds)
    if (std::isfinite(seconds) && seconds > 0) total += seconds;
  const double share = total / n_ranks;
  std::vector<int> widths;
  widths.reserve(predicted_seconds.size());
  for (const double seconds : predicted_seconds) {
    if (!(share > 0) || !std::isfinite(seconds) || seconds <= share) {
      widths.push_back(1);
      continue;
    }
    // A hundredth more than an even share is not worth another rank.
    widths.push_back(
        static_cast<int>(std::clamp(std::ceil(seconds / share - 0.01), 1.0, static_cast<double>(n_ranks))));
  }
  return widths;
}

}  // namespace voronoi::sched
