#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <span>
#include <utility>

#include "comm/agreement.h"
#include "comm/divided.h"
#include "core/error.h"
#include "core/log.h"
#include "core/whereabouts.h"
#include "core/work_counts.h"
#include "stages/stage.h"

namespace voronoi::stages {
namespace {

std::vector<std::string> nothing(const run::Settings&) { return {}; }

std::vector<std::string> nothing_to_allocate(const run::Settings& settings) {
  if (settings.allocate) return {};
  return {"--stages: allocate needs --allocate"};
}

std::vector<std::string> nothing_to_tune(const run::Settings& settings) {
  if (!run::tune_phases(settings).empty()) return {};
  return {"--stages: tune needs --tune-phases, block or end-to-end for instance"};
}

std::vector<std::string> nothing_to_validate(const run::Settings& settings) {
  if (!settings.validate_texts.empty() || !settings.validate_tasks.empty()) return {};
  return {"--stages: validate needs --validate-text or --validate-tasks"};
}

const Stage* find(std::string_view name) {
  const auto found =
      std::find_if(stages().begin(), stages().end(), [&](const Stage& stage) { return stage.name == name; });
  return found == stages().end() ? nullptr : &*found;
}

std::vector<const Stage*> wanted_stages(const run::Settings& settings) {
  std::vector<const Stage*> wanted;
  for (const Stage& stage : stages())
    if (is_wanted(settings, stage.name)) wanted.push_back(&stage);
  return wanted;
}

std::vector<Window> windows_of(const Work& work, bool by_windows) {
  const std::int64_t n_layers = work.config().n_layers;
  std::vector<Window> windows;
  const std::int64_t step = by_windows ? run::hessian_window(work.settings, n_layers) : n_layers;
  for (std::int64_t first = 0; first < n_layers; first += step)
    windows.push_back({first, std::min(first + step, n_layers)});
  return windows;
}

/// What this rank did in each stage of a group.
class StageCounts {
 public:
  explicit StageCounts(const std::vector<const Stage*>& group) : group_(group), counts_(group.size()) {}

  /// Whatever `call` does is the stage's.
  template <class Call>
  auto of(std::size_t stage, const Call& call) {
    struct Counting {
      core::WorkCounts& to;
      core::WorkCounts before = core::work_done();
      ~Counting() { to += core::work_done() - before; }
    } counting{counts_[stage]};
    return call();
  }

  /// Of all ranks; collective.
  void journal(Work& work) const {
    for (std::size_t i = 0; i < group_.size(); ++i) {
      const std::vector<std::vector<std::byte>> parts = work.world.gather(std::as_bytes(counts_[i].values()), 0);
      comm::on_root(work.world, [&] {
        core::WorkCounts sum;
        for (const std::vector<std::byte>& part : parts) {
          core::WorkCounts theirs;
          VORONOI_REQUIRE(part.size() == theirs.values().size_bytes(), "counts of a rank");
          std::memcpy(theirs.values().data(), part.data(), part.size());
          sum += theirs;
        }
        run::StageWork record{std::string(group_[i]->name), work.run.state.start, {}};
        for (std::size_t what = 0; what < core::kCounted; ++what)
          if (const double amount = sum.values()[what]; amount != 0)
            record.counts[std::string(core::counted_name(static_cast<core::Counted>(what)))] = amount;
        if (!record.counts.empty()) work.run.append(record);
      });
    }
  }

 private:
  const std::vector<const Stage*>& group_;
  std::vector<core::WorkCounts> counts_;
};

/// Each stage on one window before any on the next, until a stop.
void run_windows(Work& work, const std::vector<const Stage*>& group, StageCounts& counts) {
  std::vector<StageRun> runs;
  for (std::size_t i = 0; i < group.size(); ++i) runs.push_back(counts.of(i, [&] { return group[i]->begin(work); }));
  for (const Window& window : windows_of(work, group.front()->by_windows))
    for (std::size_t i = 0; i < runs.size(); ++i) {
      counts.of(i, [&] { runs[i](window); });
      if (work.stopped) return;
    }
}

/// Stages that take the windows in turn, or one that does not.
void run_together(Work& work, const std::vector<const Stage*>& group) {
  StageCounts counts(group);
  run_windows(work, group, counts);
  counts.journal(work);
  if (work.stopped) return;
  comm::on_root(work.world, [&] {
    for (run::Run* run : work.all_runs())
      for (const Stage* stage : group) run->append(run::StageDone{std::string(stage->name), core::unix_time()});
  });
}

}  // namespace

const std::vector<Stage>& stages() {
  static const std::vector<Stage> list{
      {"calibrate", {}, true, nothing, begin_calibrate},
      {"allocate", {}, true, nothing_to_allocate, begin_allocate, true},
      {"quantize", {}, true, nothing, begin_quantize},  // needs Hessians, whoever made them: looks for the files
      {"tune", {"quantize"}, false, nothing_to_tune, begin_tune, true},
      // Before the export, whose README.md has its figures.
      {"validate", {"quantize"}, false, nothing_to_validate, begin_validate, true},
      {"export", {"quantize"}, false, run::export_problems, begin_export},
      {"report", {}, false, nothing, begin_report},
  };
  return list;
}

std::string stage_names() {
  std::vector<std::string_view> names;
  for (const Stage& stage : stages()) names.push_back(stage.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

bool is_wanted(const run::Settings& settings, std::string_view name) {
  if (!settings.stages.empty()) return run::asks_for_stage(settings, name);
  const Stage* stage = find(name);
  VORONOI_REQUIRE(stage != nullptr, "a stage of the registry is wanted");
  return stage->reasons_against(settings).empty();
}

std::vector<std::string> check_stages(const run::Settings& settings) {
  std::vector<std::string> problems;
  for (const std::string& name : run::stage_list(settings)) {
    const Stage* stage = find(name);
    if (stage == nullptr)
      problems.push_back("--stages: '" + name + "' is no stage; there are " + stage_names());
    else
      for (std::string& problem : stage->reasons_against(settings)) problems.push_back(std::move(problem));
  }
  return problems;
}

std::vector<std::string> unmet_needs(const run::Settings& settings, const run::RunState& state) {
  std::set<std::string, std::less<>> met(state.stages_done.begin(), state.stages_done.end());
  std::vector<std::string> problems;
  for (const Stage* stage : wanted_stages(settings)) {
    for (const std::string_view need : stage->needs)
      if (!met.contains(need))
        problems.push_back(fmt::format("--stages: {} needs {}, which has not come to its end in this run; name it too",
                                       stage->name, need));
    met.emplace(stage->name);
  }
  return problems;
}

void require_hessians(const Work& work) {
  if (is_wanted(work.settings, "calibrate")) return;
  const std::vector<planning::SiteTask> missing = missing_hessians(work);
  comm::on_root(work.world, [&] {
    if (!missing.empty())
      throw core::ConfigError("--stages: without calibrate the Hessians must be there, and " +
                              work.hessians.hessian(missing.front().block, missing.front().site.name).string() +
                              " is not");
  });
}

std::vector<planning::SiteTask> missing_hessians(const Work& work) {
  std::vector<planning::SiteTask> tasks, missing;
  for (std::int64_t block = 0; block < work.config().n_layers; ++block)
    for (const planning::SharedTask& task : work.pending_tasks(block)) tasks.push_back(task.site());
  const std::vector<std::string> lacks = comm::divided(work.world, tasks.size(), [&](std::size_t i) {
    return std::string(work.is_hessian_ready(tasks[i]) ? "" : "lacks");
  });
  for (std::size_t i = 0; i < tasks.size(); ++i)
    if (!lacks[i].empty()) missing.push_back(std::move(tasks[i]));
  return missing;
}

void run_stages(Work& work) {
  const std::vector<const Stage*> wanted = wanted_stages(work.settings);
  // Rank 0: the state is its alone.
  comm::on_root(work.world, [&] {
    if (std::vector<std::string> problems = unmet_needs(work.settings, work.run.state); !problems.empty())
      throw core::ConfigError(problems);
  });
  if (work.settings.stages.empty() && work.world.rank() == 0)
    for (const Stage& stage : stages())
      if (const std::vector<std::string> reasons = stage.reasons_against(work.settings);
          !reasons.empty() && !stage.on_request)
        core::log_info("{} is left out: {}", stage.name, fmt::join(reasons, "; "));
  for (std::size_t i = 0; i < wanted.size() && !work.stopped;) {
    std::vector<const Stage*> group{wanted[i++]};
    while (group.front()->by_windows && i < wanted.size() && wanted[i]->by_windows) group.push_back(wanted[i++]);
    run_together(work, group);
  }
}

}  // namespace voronoi::stages
