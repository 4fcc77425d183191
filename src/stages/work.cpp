#include "stages/work.h"

#include <filesystem>
#include <iterator>
#include <utility>

#include "comm/agreement.h"
#include "core/error.h"
#include "core/log.h"
#include "core/stop.h"
#include "core/whereabouts.h"
#include "run/heartbeat.h"
#include "run/layer_store.h"

namespace voronoi::stages {

Work::Work(const comm::Communicator& the_world, backend::Context& the_context, const run::Settings& the_settings,
           const Inputs& the_inputs, run::Run& the_run)
    : Work(the_world, the_context, the_settings, the_inputs, the_run, {&the_run}) {}

Work::Work(const comm::Communicator& the_world, backend::Context& the_context, const run::Settings& the_settings,
           const Inputs& the_inputs, run::Run& the_run, std::vector<run::Run*> the_members)
    : world(the_world),
      context(the_context),
      settings(the_settings),
      inputs(the_inputs),
      run(the_run),
      members(std::move(the_members)),
      rates(planning::table_rates(context.device(), static_cast<int>(world.all_max(context.n_threads())))),
      hessians(has_foreign_hessians() ? store::RunPaths{settings.hessians_from} : run.paths) {
  VORONOI_REQUIRE(!members.empty(), "no run has layers");
  n_layers.assign(members.size(), 0);
  for (std::int64_t block = 0; block < config().n_layers; ++block) {
    for (const planning::SiteTask& task : all_tasks(block))
      for (const model::LinearSpec& linear : task.site.linears)
        for (std::size_t i = 0; i < members.size(); ++i)
          if (members[i]->parameters.of(linear.name) != nullptr) ++n_layers[i];
    for (const planning::SharedTask& task : pending_tasks(block)) predicted_quantize[block] += wall_seconds(task);
  }
}

std::vector<run::Run*> Work::all_runs() const {
  std::vector<run::Run*> runs = members;
  if (is_shared()) runs.push_back(&run);
  return runs;
}

std::vector<planning::SiteTask> Work::all_tasks(std::int64_t block) const {
  std::vector<planning::SiteTask> tasks;
  for (model::SiteSpec& site : model::block_sites(config(), block)) tasks.push_back({block, std::move(site)});
  return tasks;
}

std::vector<planning::SharedTask> Work::pending_tasks(std::int64_t block) const {
  std::vector<planning::SharedTask> tasks;
  for (const planning::SiteTask& whole : all_tasks(block)) {
    planning::SharedTask shared;
    for (std::size_t i = 0; i < members.size(); ++i) {
      planning::SiteTask task = whole;
      std::erase_if(task.site.linears, [&](const model::LinearSpec& linear) {
        return members[i]->done.contains(linear.name) || members[i]->parameters.of(linear.name) == nullptr;
      });
      if (!task.site.linears.empty()) shared.parts.push_back({i, std::move(task)});
    }
    if (!shared.parts.empty()) tasks.push_back(std::move(shared));
  }
  return tasks;
}

bool Work::has_pending_from(std::int64_t block) const {
  for (; block < config().n_layers; ++block)
    if (!pending_tasks(block).empty()) return true;
  return false;
}

bool Work::takes_hessian(std::int64_t block, const std::string& site) const {
  for (const planning::SiteTask& task : all_tasks(block)) {
    if (task.site.name != site) continue;
    for (const model::LinearSpec& linear : task.site.linears)
      for (const run::Run* member : members)
        if (member->parameters.of(linear.name) != nullptr) return true;
  }
  return false;
}

bool Work::is_hessian_ready(const planning::SiteTask& task) const {
  const std::filesystem::path file = hessians.hessian(task.block, task.site.name);
  if (!std::filesystem::exists(file)) {
    if (has_foreign_hessians())
      throw core::StoreError(file.string() +
                             ": is not there; make that run with --keep-hessians, or leave --hessians-from out");
    return false;
  }
  try {
    run::read_hessian(hessians, task.block, task.site.name, task.site.in_features, inputs.calibration);
    return true;
  } catch (core::Error& error) {
    if (has_foreign_hessians()) {
      error.add_context("--hessians-from (another run with --keep-hessians makes them again)");
      throw;
    }
    core::log_warning("{}; moved to {}, it will be made again", error.what(), run.start->quarantine(file).string());
    return false;
  }
}

bool Work::stop_agreed() {
  if (world.all_max(core::stop_requested() ? 1 : 0) != 0) stopped = true;
  return stopped;
}

void Work::journal_time(const char* stage, Clock::time_point begin) {
  comm::on_root(world, [&] {
    run.append(run::StageTime{stage, std::chrono::duration<double>(Clock::now() - begin).count(), core::unix_time()});
  });
}

std::int64_t Work::peak_memory() const { return world.all_max(run::peak_memory_bytes()); }

planning::ParametersOfRuns Work::parameters() const {
  planning::ParametersOfRuns parameters;
  for (const run::Run* member : members) parameters.push_back(&member->parameters);
  return parameters;
}

std::int64_t Work::layers_done() const {
  std::int64_t n = 0;
  for (const run::Run* member : members) n += std::ssize(member->state.layers);
  return n;
}

double Work::wall_seconds(const planning::SharedTask& task) const {
  return planning::task_seconds(task, parameters(), hessian_kind(), rates) / world.size();
}

run::Heartbeat Work::heartbeat(const char* stage, const std::string& doing) const {
  run::Heartbeat heartbeat;
  heartbeat.start = run.state.start;
  heartbeat.stage = stage;
  heartbeat.doing = doing;
  heartbeat.layers = layers_wanted();
  heartbeat.layers_done = layers_done();
  heartbeat.tasks_done = tasks_done;
  for (const run::Run* member : members) heartbeat.tasks_failed += std::ssize(member->state.quarantined);
  heartbeat.ranks = world.size();
  heartbeat.tokens_per_second = tokens_per_second;
  heartbeat.stages = clock.left();
  heartbeat.spent = clock.spent();
  return heartbeat;
}

void Work::tell(const char* stage, const std::string& doing, core::Json workers) const {
  run::Heartbeat now = heartbeat(stage, doing);
  now.workers = std::move(workers);
  run.heartbeat->update(now);
  if (!is_shared()) return;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const run::Run* member = members[i];
    now.start = member->state.start;
    now.layers = n_layers[i];
    now.layers_done = std::ssize(member->state.layers);
    now.tasks_failed = std::ssize(member->state.quarantined);
    member->heartbeat->update(now);
  }
}

}  // namespace voronoi::stages
