#include <algorithm>
#include <cmath>

#include "core/types.h"
#include "sched/scheduler.h"

namespace voronoi::sched {

namespace {

double sound(double seconds) { return std::isfinite(seconds) && seconds > 0 ? seconds : 0; }

}  // namespace

double wall_seconds(const Task& task, int width) {
  const double alone = sound(task.predicted_seconds), serial = std::min(alone, sound(task.serial_seconds));
  if (width <= 1) return alone;
  const double share = task.pieces > 0 ? static_cast<double>(core::ceil_div(task.pieces, std::int64_t{width})) /
                                             static_cast<double>(task.pieces)
                                       : 1.0 / width;
  return serial + (alone - serial) * share + sound(task.team_seconds);
}

double CostModel::factor(const std::string& kind) const {
  if (const auto it = ratios_.find(kind); it != ratios_.end()) return it->second.measured / it->second.predicted;
  Ratio all;
  for (const auto& [other, ratio] : ratios_) {
    all.predicted += ratio.predicted;
    all.measured += ratio.measured;
  }
  return all.predicted > 0 ? all.measured / all.predicted : 1;
}

double CostModel::predict(const Task& task) const { return wall_seconds(task, 1) * factor(task.kind); }

double CostModel::predict_wall(const Task& task) const { return wall_seconds(task, task.width) * factor(task.kind); }

void CostModel::observe(const Task& task, double seconds) {
  const double predicted = wall_seconds(task, task.width);
  if (predicted <= 0 || !std::isfinite(seconds) || seconds <= 0) return;
  const int width = std::max(1, task.width);
  Ratio& ratio = ratios_[task.kind];
  ratio.predicted += predicted * width;
  ratio.measured += seconds * width;
}

}  // namespace voronoi::sched
