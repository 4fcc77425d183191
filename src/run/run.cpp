#include "run/run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>
#include <utility>
#include <variant>

#include "comm/agreement.h"
#include "comm/divided.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/version.h"
#include "core/whereabouts.h"
#include "store/shard.h"

namespace voronoi::run {
namespace {

/// A file that the journal names.
struct StoredFile {
  std::string name;
  std::int64_t generation = 0;
  std::string sha256;
};

template <class T>
void add_files(const std::map<std::string, T>& newest, const std::map<std::string, std::vector<T>>& earlier,
               std::vector<StoredFile>& files) {
  const auto add = [&](const T& record) { files.push_back({record.name, record.generation, record.sha256}); };
  for (const auto& [name, record] : newest) add(record);
  for (const auto& [name, records] : earlier) std::for_each(records.begin(), records.end(), add);
}

core::Json to_json(const std::vector<StoredFile>& files) {
  core::Json json = core::Json::array();
  for (const StoredFile& file : files) json.push_back({file.name, file.generation, file.sha256});
  return json;
}

std::vector<StoredFile> files_from_json(const std::string& text) {
  std::vector<StoredFile> files;
  for (const core::Json& entry : core::parse_json(text, "files of the run"))
    files.push_back({entry.at(0).get<std::string>(), core::whole_number(entry.at(1)), entry.at(2).get<std::string>()});
  return files;
}

/// What is wrong with the file of a journalled generation; empty: nothing.
std::string damage_of(const std::filesystem::path& file, const std::string& sha256) {
  if (!std::filesystem::exists(file)) return file.string() + ": is missing";
  try {
    return core::sha256_of_file(file) == sha256 ? "" : file.string() + ": is damaged (checksum)";
  } catch (const core::StoreError& error) {
    return error.what();
  }
}

/// Sets aside what is left of files that are no longer what was journalled, and journals their loss.
void drop_lost(Run& run, const std::vector<StoredFile>& files, const std::vector<std::string>& damages) {
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (damages[i].empty()) continue;
    const std::filesystem::path file = run.paths.layer(files[i].name, files[i].generation);
    std::string problem = damages[i];
    if (std::filesystem::exists(file)) problem += ", moved to " + run.start->quarantine(file).string();
    core::log_warning("{}; it will be made again", problem);
    run.append(LayerLost{files[i].name, files[i].generation});
  }
}

/// Whether a file's name is that of a generation from 1 on.
bool names_generation(const std::string& file) {
  static const std::regex pattern(R"(.+\.g[1-9][0-9]*\.h5)");
  return std::regex_match(file, pattern);
}

void remove_unjournalled(const Run& run) {
  std::set<std::filesystem::path> known;
  const auto keep = [&](const auto& record) { known.insert(run.paths.layer(record.name, record.generation)); };
  const auto keep_all = [&](const auto& newest, const auto& earlier) {
    for (const auto& [name, record] : newest) keep(record);
    for (const auto& [name, records] : earlier) std::for_each(records.begin(), records.end(), keep);
  };
  keep_all(run.state.layers, run.state.earlier_layers);
  keep_all(run.state.tensors, run.state.earlier_tensors);
  std::vector<std::filesystem::path> unknown;
  for (const auto& entry : std::filesystem::directory_iterator(run.paths.layers()))
    if (names_generation(entry.path().filename().string()) && !known.contains(entry.path()))
      unknown.push_back(entry.path());
  for (const std::filesystem::path& file : unknown) {
    core::log_info("{}: no record names it: removed", file.string());
    run.start->remove(file);
  }
}

void warn_of_other_versions(const RunState& state, const std::string& version) {
  for (const std::string& other : state.versions)
    if (other != version)
      core::log_warning(
          "layers of this run were made by {}, this is version {}: the others may differ from them; for "
          "layers of one version go on with that one, or start a new run directory",
          other.empty() ? "a version of the program that did not tell its number" : "version " + other, version);
}

/// Rank 0's part of open_run.
void open_on_root(Run& run, const comm::Communicator& world, const Settings& options, const core::Json& identity,
                  const core::Json& machine) {
  store::create_run_directory(run.paths);
  run.lock = std::make_unique<store::RunLock>(run.paths);
  if (run.lock->stale_holder())
    core::log_info("{}: took over the lock of {}", run.paths.root.string(), *run.lock->stale_holder());
  run.start = store::Start::begin(run.paths);
  store::check_or_write_identity(*run.start, identity);
  take_up(run,
          {.ranks = world.size(),
           .pid = ::getpid(),
           .host = core::host_name(),
           .time = core::unix_time(),
           .model = std::filesystem::absolute(options.model).string(),
           .tokenizer = options.tokenizer.empty() ? "" : std::filesystem::absolute(options.tokenizer).string(),
           .version = core::program_version(),
           .packages = {{"hdf5", store::library_version()}, {"mpi", comm::library_version()}},
           .directory = std::filesystem::current_path().string(),
           .machine = machine,
           .command = options.command,
           .options = options.given},
          options.set);
}

/// What the other ranks have to know.
core::Json state_to_json(const Run& run) {
  core::Json json{{"start", run.state.start}, {"id", run.start->id()}, {"done", run.done}, {"sets", run.state.sets}};
  if (run.state.allocated) json["allocated"] = to_json(*run.state.allocated);
  return json;
}

}  // namespace

void Run::take_parameters(const Settings& options) {
  parameters = run_parameters(options, state.allocated ? state.allocated->rules : std::vector<std::string>());
  for (const std::string& assignment : state.sets)
    if (const std::string problem = parameters.set(assignment); !problem.empty())
      throw core::ConfigError("--set: " + problem);
  if (std::vector<std::string> problems = parameters.check(); !problems.empty()) throw core::ConfigError(problems);
}

void Run::add(const Record& record) {
  journal->add(to_json(record));
  take_into_account(record);
}

void Run::append(const Record& record) {
  journal->append(to_json(record));
  take_into_account(record);
}

void Run::take_into_account(const Record& record) {
  apply(state, record, paths.journal().string());
  // Nobody looks at them here, and they are most of a record.
  if (const auto* layer = std::get_if<LayerRecord>(&record)) state.layers.at(layer->name).statistics = nullptr;
}

void take_up(Run& run, StartRecord start, const std::vector<std::string>& set) {
  const std::string file = run.paths.journal().string();
  try {
    run.journal = std::make_unique<store::Journal>(run.paths.journal(), run.start->temporary(run.paths.journal()));
  } catch (const core::StoreError&) {
    run.start->require_current();
    throw;
  }
  if (run.journal->dropped_torn_tail()) core::log_warning("{}: dropped a record that was cut short", file);
  std::size_t line = 0;
  for (const core::Json& record : run.journal->take_records())
    run.take_into_account(record_from_json(record, file, ++line));
  warn_of_other_versions(run.state, start.version);
  start.number = run.state.start + 1;
  run.append(start);
  for (const std::string& assignment : set) run.append(SetRecord{assignment});
}

void settle_files(const comm::Communicator& world, Run& run) {
  std::vector<StoredFile> files;
  if (world.rank() == 0) {
    add_files(run.state.layers, run.state.earlier_layers, files);
    add_files(run.state.tensors, run.state.earlier_tensors, files);
  }
  files = files_from_json(world.broadcast(to_json(files).dump(), 0));
  const std::vector<std::string> damages = comm::divided(world, files.size(), [&](std::size_t i) {
    return damage_of(run.paths.layer(files[i].name, files[i].generation), files[i].sha256);
  });
  comm::on_root(world, [&] {
    drop_lost(run, files, damages);
    remove_unjournalled(run);
    for (const auto& [name, layer] : run.state.layers) {
      const auto earlier = run.state.earlier_layers.find(name);
      run.done[name] = (earlier == run.state.earlier_layers.end() ? layer : earlier->second.front()).generation;
    }
  });
}

Run open_run(const comm::Communicator& world, const Settings& options, const core::Json& identity,
             const core::Json& machine) {
  Run run;
  run.paths.root = options.run;
  comm::on_root(world, [&] { open_on_root(run, world, options, identity, machine); });
  settle_files(world, run);
  const std::string text = world.broadcast(world.rank() == 0 ? state_to_json(run).dump() : std::string(), 0);
  if (world.rank() != 0) {
    const core::Json json = core::parse_json(text, "state of the run");
    run.start = std::make_unique<store::Start>(run.paths, json.at("id").get<std::string>(), world.rank());
    run.state.start = core::whole_number(json.at("start"));
    run.state.sets = json.at("sets").get<std::vector<std::string>>();
    if (json.contains("allocated"))
      run.take_into_account(record_from_json(json.at("allocated"), run.paths.journal().string(), 0));
    run.done = json.at("done").get<std::map<std::string, std::int64_t>>();
  }
  run.heartbeat = std::make_unique<HeartbeatWriter>(*run.start);
  comm::together(world, [&] {
    run.take_parameters(options);
    log_into(run, world.rank());
  });
  return run;
}

void log_into(const Run& run, int rank) { core::log_to_file(run.paths.logs() / fmt::format("rank_{:04}.log", rank)); }

bool end_start(const comm::Communicator& world, Run& run, bool stopped) {
  const std::int64_t peak = world.all_max(peak_memory_bytes());
  std::int64_t failed = 0;
  comm::on_root(world, [&] {
    run.append(PeakMemory{peak});
    if (stopped)
      run.append(Stopped{core::unix_time()});
    else
      run.append(Finished{core::unix_time()});
    run.heartbeat->end(stopped ? "stopped" : "finished");
    if (stopped) return;
    run.start->require_current();
    failed = failures(run.state).empty() ? 0 : 1;
  });
  return world.all_max(failed) != 0;
}

}  // namespace voronoi::run
