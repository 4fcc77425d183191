#include "stages/export.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "comm/agreement.h"
#include "comm/divided.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "core/stop.h"
#include "core/whereabouts.h"
#include "export/writer.h"
#include "run/layer_store.h"
#include "run/run_model.h"
#include "stages/progress.h"
#include "stages/stage.h"
#include "validation/run_report.h"

namespace voronoi::stages {
namespace {

namespace fs = std::filesystem;
/// What the journal calls the stage where it was given up.
constexpr const char* kExportTask = "export";

format::Encoding read_journalled_layer(const ExportSource& source, const std::string& name) {
  const run::LayerRecord& layer = source.state.layers.at(name);
  return run::read_layer(source.paths, name, layer.generation, layer.sha256);
}

std::vector<std::string> missing_layers(const ExportSource& source) {
  std::vector<std::string> missing;
  for (const model::LinearSpec& linear : model::block_linears(source.original.config()))
    if (!source.state.layers.contains(linear.name) && !source.state.unquantized.contains(linear.name))
      missing.push_back(linear.name);
  return missing;
}

/// Every reason, when layers are missing: the writer itself would stop at the first of those.
void refuse_incomplete(const ExportSource& source, const exporting::Target& target,
                       const std::vector<std::string>& missing) {
  std::vector<std::string> problems{
      fmt::format("export: {} of {} layers are not quantized ({} first); run the quantize command again",
                  missing.size(), missing.size() + source.state.layers.size(), missing.front())};
  const std::vector<std::string> given_up = run::describe_failures(source.state);
  if (!given_up.empty())
    problems.back() += ", and where a cause is named below, put that right first (a corrected model needs a new --run)";
  problems.insert(problems.end(), given_up.begin(), given_up.end());
  std::set<std::string> others;
  for (const auto& [name, layer] : source.state.layers)
    for (std::string& problem : exporting::check_exportable(read_journalled_layer(source, name), target))
      others.insert(std::move(problem));
  problems.insert(problems.end(), others.begin(), others.end());
  throw core::ConfigError(problems);
}

/// What is known of the run's quality. An evaluation that cannot be read keeps nobody from exporting.
std::vector<exporting::CardFigure> card_figures(const store::RunPaths& paths) {
  std::vector<exporting::CardFigure> rows;
  try {
    const validation::Figures figures = validation::run_figures(paths);
    for (const validation::Figure& figure : figures.all)
      if (figure.quantized())
        rows.push_back(
            {figure.task, figure.metric, figures.protocols[figure.protocol], figure.value, figure.reference});
  } catch (const core::Error& error) {
    core::log_warning("the export's README.md has no figures: {}", error.what());
  }
  return rows;
}

/// The files of RUN/export where it holds the layers of the run, if they are whole; else none.
std::vector<exporting::Manifest::File> files_in_place(const run::Run& run, const exporting::Target& target) {
  try {
    const auto manifest = exporting::read_manifest(run.paths.exported());
    if (manifest && manifest->layout == target.layout && manifest->profile == target.profile &&
        manifest->layers == run::published_sums(run.state))
      return manifest->files;
  } catch (const core::FormatError& error) {
    core::log_warning("{}; exported again", error.what());
  }
  return {};
}

/// Whether RUN/export is whole and holds the layers of the run; collective, each file is summed by one rank.
bool is_up_to_date(const Work& work, const exporting::Target& target) {
  core::Json list = core::Json::array();
  comm::on_root(work.world, [&] {
    for (const exporting::Manifest::File& file : files_in_place(work.run, target))
      list.push_back({file.name, file.sha256, file.size_bytes});
  });
  list = core::parse_json(work.world.broadcast(list.dump(), 0), "files of an export");
  const std::vector<std::string> problems = comm::divided(work.world, list.size(), [&](std::size_t i) {
    return exporting::check_file(work.run.paths.exported(),
                                 {list[i].at(0), list[i].at(1), core::whole_number(list[i].at(2))});
  });
  const auto problem = std::find_if(problems.begin(), problems.end(), [](const auto& text) { return !text.empty(); });
  if (problem != problems.end() && work.world.rank() == 0) core::log_warning("{}; exported again", *problem);
  return !list.empty() && problem == problems.end();
}

/// What of rank 0's state the export of a run is made of, for all ranks.
core::Json layers_to_json(const run::RunState& state) {
  core::Json layers = core::Json::array(), tensors = core::Json::array(), unquantized = core::Json::array();
  for (const auto& [name, layer] : state.layers) layers.push_back({name, layer.generation, layer.sha256});
  for (const auto& [name, tensor] : state.tensors) tensors.push_back({name, tensor.generation, tensor.sha256});
  for (const auto& [name, weights] : state.unquantized) unquantized.push_back({name, weights});
  return {{"layers", layers}, {"tensors", tensors}, {"unquantized", unquantized}};
}

template <class Record>
void take_files(const core::Json& list, std::map<std::string, Record>& records) {
  for (const core::Json& file : list) {
    Record& record = records[file.at(0).get<std::string>()];
    record.name = file.at(0).get<std::string>();
    record.generation = core::whole_number(file.at(1));
    record.sha256 = file.at(2).get<std::string>();
  }
}

run::RunState layers_from_json(const core::Json& json) {
  run::RunState state;
  take_files(json.at("layers"), state.layers);
  take_files(json.at("tensors"), state.tensors);
  for (const core::Json& linear : json.at("unquantized"))
    state.unquantized[linear.at(0).get<std::string>()] = core::whole_number(linear.at(1));
  return state;
}

/// Told after each layer: stops on request, keeps the heartbeat, shows what is going on.
class StageProgress {
 public:
  explicit StageProgress(const Work& work) : work_(work) {}

  void operator()(const std::string& what, std::size_t done, std::size_t total) {
    if (core::stop_requested()) throw core::StopRequested();
    work_.run.start->require_current();
    if (Clock::now() < next_) return;
    next_ = Clock::now() + std::chrono::seconds(1);
    std::map<std::string, double> left;
    const double spent = std::chrono::duration<double>(Clock::now() - start_).count();
    if (done > 0) left["export"] = spent / static_cast<double>(done) * static_cast<double>(total - done);
    if (work_.world.rank() != 0) return;
    core::show_progress(fmt::format("exporting ({}): {} of {} layers{}", what, done, total, left_text(left)));
    run::Heartbeat heartbeat = work_.heartbeat("export", fmt::format("layer {}/{}", done, total));
    heartbeat.stages = std::move(left);
    heartbeat.spent["export"] = spent;
    work_.run.heartbeat->update(std::move(heartbeat));
  }

 private:
  const Work& work_;
  Clock::time_point start_ = Clock::now(), next_ = start_;
};

/// The checkpoint's request, once nothing is known against it.
exporting::ExportRequest request_of(const ExportSource& source, const exporting::Target& target) {
  exporting::ExportRequest request;
  request.original = &source.original;
  for (const auto& [name, weights] : source.state.unquantized) request.unquantized.insert(name);
  request.tokenizer = source.tokenizer;
  request.encoding = [&source](const std::string& name) { return read_journalled_layer(source, name); };
  request.origin.run = fs::absolute(source.paths.root).lexically_normal().string();
  request.origin.method = source.method;
  request.layout = exporting::layout_of(target, read_journalled_layer(source, source.state.layers.begin()->first));
  if (request.layout == nullptr)
    throw core::ConfigError("export: no checkpoint layout holds layers of " + source.method);
  if (const auto problems = exporting::check_exportable(source.original.config(), request.layout->name());
      !problems.empty())
    throw core::ConfigError(problems);
  request.origin.layout = request.layout->name();
  request.origin.profile = target.profile;
  request.origin.layers = run::published_sums(source.state);
  return request;
}

/// What write_file() says of a file, or of values that none could hold.
constexpr char kFile = 'f', kBadValues = 'b', kRefused = 'r';

std::string write_or_tell(exporting::CheckpointWriter& writer, std::size_t file) {
  try {
    return kFile + writer.write_file(file);
  } catch (const model::BadValues& error) {
    return kBadValues + std::string(error.what());
  } catch (const core::ConfigError& error) {
    return kRefused + std::string(error.what());
  }
}

/// The same on every rank.
void require_written(std::vector<std::string>& said) {
  for (std::string& file : said) {
    const char kind = file.front();
    file.erase(0, 1);
    const std::size_t end = file.find(": ");  // of the file's name, which an error of this kind begins with
    if (kind == kBadValues) throw model::BadValues(file.substr(0, end), file.substr(std::min(file.size(), end + 2)));
    if (kind == kRefused) throw core::ConfigError(file);
  }
}

}  // namespace

void export_run(const comm::Communicator& world, const ExportSource& source, const exporting::Target& target,
                const exporting::UnfinishedExport& place,
                const std::function<void(const std::string&, std::size_t, std::size_t)>& progress) {
  exporting::ExportRequest request;
  std::exception_ptr refused;
  comm::together(world, [&] {
    try {
      if (const auto missing = missing_layers(source); !missing.empty()) refuse_incomplete(source, target, missing);
      request = request_of(source, target);
    } catch (const core::ConfigError&) {
      refused = std::current_exception();
    }
  });
  if (refused) std::rethrow_exception(refused);
  const run::RunSource tensors(source.original, source.paths, {{}, run::published(source.state).tensors});
  std::vector<const run::TensorRecord*> own_tensors;
  for (const auto& [name, tensor] : source.state.tensors) own_tensors.push_back(&tensor);
  comm::divided(world, own_tensors.size(), [&](std::size_t i) {
    run::require_journalled(source.paths, own_tensors[i]->name, own_tensors[i]->generation, own_tensors[i]->sha256);
    return std::string();
  });
  request.tensors = &tensors;
  if (world.rank() == 0) request.figures = card_figures(source.paths);
  if (progress)
    request.progress = [&](const std::string& what, std::size_t done, std::size_t total) {
      progress(what, std::min(total, done * static_cast<std::size_t>(world.size())), total);
    };
  std::optional<exporting::CheckpointWriter> writer;
  comm::together(world, [&] { writer.emplace(request, place); });
  writer->plan(comm::divided(world, writer->n_layers(), [&](std::size_t i) { return writer->look_at(i); }));
  comm::on_root(world, [&] { writer->begin(); });
  try {
    std::vector<std::string> written =
        comm::divided(world, writer->n_files(), [&](std::size_t i) { return write_or_tell(*writer, i); });
    require_written(written);
    comm::on_root(world, [&] { writer->finish(written); });
  } catch (const core::Error&) {  // the same try would end so again
    if (world.rank() == 0) place.remove();
    throw;
  } catch (...) {
    // All ranks come here or none: each has left its file.
    if (world.rank() == 0) exporting::leave_unfinished(place);
    throw;
  }
}

namespace {

/// RUN/export, made again unless it holds what the run holds. Layers that were given up keep it from being made, which
/// is a warning; so do damaged tensors that it would hold as they are, which is journalled, and what the format cannot
/// hold, unless the stage was asked for by name. A stop that was asked for is agreed on between layers.
class ExportStage {
 public:
  explicit ExportStage(Work& work) : work_(work), target_(run::export_target(work.settings)) {}

  void run() {
    run::Run& run = work_.run;
    core::Json layers;
    comm::on_root(work_.world, [&] {
      const std::vector<std::string> missing = missing_layers(source(run.state));
      if (missing.empty())
        layers = layers_to_json(run.state);
      else
        core::log_warning("not exported: {} layers are not quantized, {} first", missing.size(), missing.front());
    });
    layers = core::parse_json(work_.world.broadcast(layers.dump(), 0), "layers of the run");
    if (layers.is_null()) return;
    if (is_up_to_date(work_, target_)) {
      comm::on_root(work_.world, [&] {
        run.start->remove(run.paths.unfinished_export());
        core::log_info("{}: is there already", run.paths.exported().string());
      });
      return;
    }
    make(work_.world.rank() == 0 ? run.state : layers_from_json(layers));
  }

 private:
  ExportSource source(const run::RunState& state) const {
    const run::Settings& settings = work_.settings;
    return {work_.run.paths, state, *work_.inputs.model,
            settings.tokenizer.empty() ? settings.model : settings.tokenizer, work_.run.parameters.method()};
  }

  void make(const run::RunState& state) {
    run::Run& run = work_.run;
    const Clock::time_point start = Clock::now();
    comm::on_root(work_.world, [&] { run.start->remove(run.paths.exported()); });
    const exporting::UnfinishedExport place(
        run.paths.unfinished_export(), [&](const fs::path& path) { return run.start->temporary(path); },
        [&](const fs::path& path) { run.start->remove(path); });
    try {
      export_run(work_.world, source(state), target_, place, StageProgress(work_));
    } catch (const model::BadValues& error) {
      // Of a tensor that is stored as it is: the layers of the run are as good as they were.
      const std::string text = error.what();
      comm::on_root(work_.world, [&] {
        core::log_error("not exported: {}", text);
        run.append(run::Quarantined{kExportTask, text});
      });
      return;
    } catch (const core::ConfigError&) {
      const std::exception_ptr refused = std::current_exception();
      comm::on_root(work_.world, [&] { warn_or_throw(refused); });
      return;
    }
    comm::on_root(work_.world, [&] {
      run.start->rename(run.paths.unfinished_export(), run.paths.exported());
      if (run.state.quarantined.contains(kExportTask)) run.append(run::TaskDone{kExportTask});
      run.append(
          run::StageTime{"export", std::chrono::duration<double>(Clock::now() - start).count(), core::unix_time()});
      core::log_info("exported: {}", run.paths.exported().string());
    });
  }

  void warn_or_throw(const std::exception_ptr& refused) const {
    if (run::asks_for_stage(work_.settings, "export")) std::rethrow_exception(refused);
    try {
      std::rethrow_exception(refused);
    } catch (const core::ConfigError& error) {
      core::log_warning("not exported: {}", error.what());
    }
  }

  Work& work_;
  exporting::Target target_;
};

}  // namespace

StageRun begin_export(Work& work) {
  return [&work](const Window&) { ExportStage(work).run(); };
}

}  // namespace voronoi::stages
