#include "planning/window_schedule.h"

#include <algorithm>
#include <utility>

namespace voronoi::planning {
namespace {

/// A task so short is not worth forming a team for.
constexpr double kLeastSharedSeconds = 0.5;

/// The packed Hessian's reading and factoring, which every member of a team does by itself.
double hessian_seconds(const SiteTask& task, const Rates& rates) {
  const auto n = static_cast<double>(task.site.in_features);
  return seconds(quant::hessian_work(task.site.in_features), rates) + 2 * n * n / rates.disk_bytes;
}

}  // namespace

double task_seconds(const SharedTask& task, const ParametersOfRuns& parameters, const Rates& rates) {
  double total = hessian_seconds(task.site(), rates);
  for (const SharedTask::Part& part : task.parts)
    for (const model::LinearSpec& linear : part.task.site.linears)
      total +=
          seconds(quant::operator_work(*parameters[part.run], linear.out_features, linear.in_features).total(), rates);
  return total;
}

std::vector<sched::Task> window_tasks(const std::vector<SharedTask>& shared_tasks, const ParametersOfRuns& parameters,
                                      const Rates& rates, int n_ranks, std::int64_t team_size) {
  std::vector<sched::Task> tasks;
  for (const SharedTask& shared : shared_tasks) {
    sched::Task task;
    task.id = static_cast<std::int64_t>(tasks.size());
    task.name = shared.site().name();
    task.kind = shared.site().kind();
    task.predicted_seconds = task_seconds(shared, parameters, rates);
    task.serial_seconds = hessian_seconds(shared.site(), rates);
    task.pieces = 1;
    for (const SharedTask::Part& part : shared.parts)
      for (const model::LinearSpec& linear : part.task.site.linears) {
        const quant::OperatorWork work =
            quant::operator_work(*parameters[part.run], linear.out_features, linear.in_features);
        task.serial_seconds += work.total().steps / rates.steps;
        if (task.predicted_seconds < kLeastSharedSeconds) continue;
        task.pieces = std::max(task.pieces, work.row_pieces);
        task.team_seconds += work.exchange_bytes / rates.link_bytes;
      }
    tasks.push_back(std::move(task));
  }
  if (team_size > 0) {
    for (sched::Task& task : tasks) task.width = static_cast<int>(std::min<std::int64_t>(team_size, n_ranks));
    return tasks;
  }
  const std::vector<int> widths = sched::choose_widths(tasks, n_ranks);
  for (std::size_t i = 0; i < tasks.size(); ++i) tasks[i].width = widths[i];
  return tasks;
}

std::vector<sched::Task> window_tasks(std::vector<SiteTask> site_tasks, const quant::QuantParameters& parameters,
                                      const Rates& rates, int n_ranks, std::int64_t team_size) {
  std::vector<SharedTask> shared;
  for (SiteTask& task : site_tasks) shared.push_back({{{0, std::move(task)}}});
  return window_tasks(shared, {&parameters}, rates, n_ranks, team_size);
}

}  // namespace voronoi::planning
