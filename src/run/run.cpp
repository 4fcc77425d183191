#include "run/run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "comm/agreement.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/whereabouts.h"

namespace voronoi::run {
namespace {

/// What is wrong with a file that is there; empty when nothing.
std::string damage_of(const std::filesystem::path& file, const std::string& sha256) {
  try {
    return core::sha256_of_file(file) == sha256 ? "" : file.string() + ": is damaged (checksum)";
  } catch (const core::StoreError& error) {
    return error.what();
  }
}

/// Journalled layers whose file no longer is what was journalled.
void drop_lost_layers(Run& run) {
  std::vector<std::string> lost;
  for (const auto& [name, layer] : run.state.layers) {
    const std::filesystem::path file = run.paths.layer(name);
    std::string problem = file.string() + ": is missing";
    if (std::filesystem::exists(file)) {
      problem = damage_of(file, layer.sha256);
      if (problem.empty()) continue;
      problem += ", moved to " + run.attempt->quarantine(file).string();
    }
    core::log_warning("{}; it will be made again", problem);
    lost.push_back(name);
  }
  for (const std::string& name : lost) run.append({{"type", "layer_lost"}, {"name", name}});
}

/// Rank 0's part of open_run.
void open_on_root(Run& run, const comm::Communicator& world, const Settings& options, const core::Json& identity) {
  store::create_run_directory(run.paths);
  run.lock = std::make_unique<store::RunLock>(run.paths);
  if (run.lock->stale_holder())
    core::log_info("{}: took over the lock of {}", run.paths.root.string(), *run.lock->stale_holder());
  run.attempt = store::Attempt::begin(run.paths);
  store::check_or_write_identity(*run.attempt, identity);
  try {
    run.journal = std::make_unique<store::Journal>(run.paths.journal(), run.attempt->temporary(run.paths.journal()));
  } catch (const core::StoreError&) {
    run.attempt->require_current();
    throw;
  }
  if (run.journal->dropped_torn_tail())
    core::log_warning("{}: dropped a record that was cut short", run.paths.journal().string());
  for (const core::Json& record : run.journal->take_records()) run.take_into_account(record);

  const std::int64_t attempt = run.state.attempt + 1;
  const core::Json record{
      {"type", "attempt"},
      {"number", attempt},
      {"ranks", world.size()},
      {"host", core::host_name()},
      {"pid", ::getpid()},
      {"time", core::unix_time()},
      {"model", std::filesystem::absolute(options.model).string()},
      {"tokenizer", options.tokenizer.empty() ? "" : std::filesystem::absolute(options.tokenizer).string()}};
  run.append(record);
  for (const std::string& assignment : options.set) run.append({{"type", "set"}, {"assignment", assignment}});
  drop_lost_layers(run);
  for (const auto& [name, layer] : run.state.layers) run.done.insert(name);
}

/// What the other ranks have to know.
core::Json state_to_json(const Run& run) {
  return {{"attempt", run.state.attempt}, {"id", run.attempt->id()}, {"done", run.done}, {"sets", run.state.sets}};
}

}  // namespace

void Run::add(const core::Json& record) {
  journal->add(record);
  take_into_account(record);
}

void Run::append(const core::Json& record) {
  journal->append(record);
  take_into_account(record);
}

void Run::take_into_account(const core::Json& record) {
  apply(state, record, paths.journal().string());
  // Nobody looks at them here, and they are most of a record.
  if (record.at("type") == "layer") state.layers.at(record.at("name").get<std::string>()).statistics = nullptr;
}

Run open_run(const comm::Communicator& world, const Settings& options, const core::Json& identity) {
  Run run;
  run.paths.root = options.run;
  comm::on_root(world, [&] { open_on_root(run, world, options, identity); });
  const std::string text = world.broadcast(world.rank() == 0 ? state_to_json(run).dump() : std::string(), 0);
  if (world.rank() != 0) {
    const core::Json json = core::parse_json(text, "state of the run");
    run.attempt = std::make_unique<store::Attempt>(run.paths, json.at("id").get<std::string>(), world.rank());
    run.state.attempt = core::whole_number(json.at("attempt"));
    run.state.sets = json.at("sets").get<std::vector<std::string>>();
    run.done = json.at("done").get<std::set<std::string>>();
  }
  run.heartbeat = std::make_unique<HeartbeatWriter>(*run.attempt);
  run.parameters = options.parameters;
  comm::together(world, [&] {
    for (const std::string& assignment : run.state.sets)
      if (const std::string problem = apply_set(run.parameters, assignment); !problem.empty())
        throw core::ConfigError("--set: " + problem);
    if (std::vector<std::string> problems = quant::check_parameters(run.parameters); !problems.empty())
      throw core::ConfigError(problems);
    core::log_to_file(run.paths.logs() / fmt::format("rank_{:04}.log", world.rank()));
  });
  return run;
}

}  // namespace voronoi::run
