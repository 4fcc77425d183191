#include "planning/window_schedule.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "calib/footprint.h"
#include "calib/row_groups.h"
#include "core/error.h"
#include "quant/method.h"
#include "quant/metric.h"
#include "quant/shared_site.h"
#include "quant/site.h"
#include "quant/target.h"

namespace voronoi::planning {
namespace {

/// The place under a key, new or known, and whether it is new.
template <class Key>
std::pair<std::size_t, bool> try_place(std::map<Key, std::size_t>& places, const Key& key, std::size_t next) {
  const auto entry = places.try_emplace(key, next);
  return {entry.first->second, entry.second};
}

/// A task so short is not worth forming a team for.
constexpr double kLeastSharedSeconds = 0.5;

/// Metrics of one kind that are prepared for a task, each with a factor of its own.
struct PreparedAs {
  bool guided = false, judges_held_out = false;
  double damping = 0;
  std::int64_t count = 0;
};

std::vector<PreparedAs> preparations(const SharedTask& task, const ParametersOfRuns& parameters,
                                     calib::HessianKind hessians) {
  std::vector<PreparedAs> all;
  for (const std::vector<PartLinear>& group : alike_linears(task, parameters)) {
    std::set<std::string_view> linears;
    std::int64_t metrics = 0;
    for (const PartLinear& of_part : group)
      if (linears.insert(of_part.linear->name).second)
        metrics += calib::n_row_groups(of_part.linear->out_features, hessians.row_groups);
    const PartLinear& first = group.front();
    const quant::QuantParameters& own = *parameters[task.parts[first.part].run]->of(first.linear->name);
    const bool guided = hessians.guided && own.guided_metric;
    all.push_back({guided, quant::find_method(own.method).judges_held_out(), own.damping, guided ? metrics : 1});
  }
  return all;
}

/// The packed Hessian's reading, the choice of its metric and its factoring, which one member of a team does while the
/// others wait, and the targets of linears, which every member does by itself.
double hessian_seconds(const SharedTask& task, const ParametersOfRuns& parameters, calib::HessianKind hessians,
                       const Rates& rates) {
  quant::Work work = preparation_work(task, parameters, hessians);
  if (hessians.cross)
    for (const SharedTask::Part& part : task.parts)
      for (const model::LinearSpec& linear : part.task.site.linears)
        work += quant::target_work(linear.out_features, linear.in_features, hessians.held_out_share > 0,
                                   part.task.block > 0);
  return seconds(work, rates) +
         static_cast<double>(calib::hessian_bytes(task.site().site, hessians)) / rates.disk_bytes;
}

quant::OperatorWork work_of(const SharedTask::Part& part, const model::LinearSpec& linear,
                            const ParametersOfRuns& parameters) {
  return quant::operator_work(*parameters[part.run]->of(linear.name), linear.out_features, linear.in_features);
}

}  // namespace

std::vector<std::vector<PartLinear>> alike_linears(const SharedTask& task, const ParametersOfRuns& parameters) {
  std::vector<std::vector<PartLinear>> groups;
  std::map<std::string, std::size_t> by_key;
  for (std::size_t i = 0; i < task.parts.size(); ++i) {
    std::map<const quant::QuantParameters*, std::size_t> by_setting;  // where a method changes the site
    for (const model::LinearSpec& linear : task.parts[i].task.site.linears) {
      const quant::QuantParameters* own = parameters[task.parts[i].run]->of(linear.name);
      VORONOI_REQUIRE(own != nullptr, linear.name + " is to be quantized and a rule leaves it as it is");
      const std::optional<std::string> key = quant::preparation_key(*own);
      const auto [group, fresh] =
          key ? try_place(by_key, *key, groups.size()) : try_place(by_setting, own, groups.size());
      if (fresh) groups.emplace_back();
      groups[group].push_back({i, &linear});
    }
  }
  return groups;
}

quant::Work preparation_work(const SharedTask& task, const ParametersOfRuns& parameters, calib::HessianKind hessians) {
  const std::int64_t n = task.site().site.in_features;
  const double tokens = static_cast<double>(hessians.tokens) * (1 - hessians.held_out_share);
  const auto one = [&](const PreparedAs& as) {
    return quant::hessian_work(n) + quant::choice_work(n, as.guided, hessians.held_out_share > 0, tokens, as.damping);
  };
  const std::vector<PreparedAs> all = preparations(task, parameters, hessians);
  if (all.empty()) return one({hessians.guided});
  quant::Work work;
  for (const PreparedAs& as : all) work += one(as) * static_cast<double>(as.count);
  return work;
}

double preparation_bytes(const SharedTask& task, const ParametersOfRuns& parameters, calib::HessianKind hessians) {
  double bytes = 0;
  for (const PreparedAs& as : preparations(task, parameters, hessians)) {
    const bool held_out = hessians.held_out_share > 0 && (hessians.cross || as.judges_held_out);
    const int n_cross = !hessians.cross ? 0 : hessians.held_out_share > 0 ? 2 : 1;
    bytes += static_cast<double>(as.count) * quant::shared_bytes(task.site().site.in_features, held_out, n_cross);
  }
  return bytes;
}

double task_seconds(const SharedTask& task, const ParametersOfRuns& parameters, calib::HessianKind hessians,
                    const Rates& rates) {
  double total = hessian_seconds(task, parameters, hessians, rates);
  for (const SharedTask::Part& part : task.parts)
    for (const model::LinearSpec& linear : part.task.site.linears)
      total += seconds(work_of(part, linear, parameters).total(), rates);
  return total;
}

std::vector<sched::Task> window_tasks(const std::vector<SharedTask>& shared_tasks, const ParametersOfRuns& parameters,
                                      calib::HessianKind hessians, const Rates& rates, int n_ranks,
                                      std::int64_t team_size) {
  std::vector<sched::Task> tasks;
  for (const SharedTask& shared : shared_tasks) {
    sched::Task task;
    task.id = static_cast<std::int64_t>(tasks.size());
    task.name = shared.site().name();
    task.kind = shared.site().kind();
    task.predicted_seconds = task_seconds(shared, parameters, hessians, rates);
    task.serial_seconds = hessian_seconds(shared, parameters, hessians, rates);
    task.pieces = 1;
    if (task.predicted_seconds >= kLeastSharedSeconds)
      task.team_seconds = preparation_bytes(shared, parameters, hessians) / rates.link_bytes;
    for (const SharedTask::Part& part : shared.parts)
      for (const model::LinearSpec& linear : part.task.site.linears) {
        const quant::OperatorWork work = work_of(part, linear, parameters);
        quant::Work alone = work.repeated;
        alone.steps = work.total().steps;
        task.serial_seconds += seconds(alone, rates);
        if (task.predicted_seconds < kLeastSharedSeconds) continue;
        task.pieces = std::max(task.pieces, work.row_pieces);
        // Of a team of two: larger ones receive less of sums, and not twice as much of all else.
        task.team_seconds += 2 * quant::received_bytes(work, 2) / rates.link_bytes;
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

std::vector<sched::Task> window_tasks(std::vector<SiteTask> site_tasks, const quant::RunParameters& parameters,
                                      calib::HessianKind hessians, const Rates& rates, int n_ranks,
                                      std::int64_t team_size) {
  std::vector<SharedTask> shared;
  for (SiteTask& task : site_tasks) shared.push_back({{{0, std::move(task)}}});
  return window_tasks(shared, {&parameters}, hessians, rates, n_ranks, team_size);
}

}  // namespace voronoi::planning
