#include "stages/export.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <map>
#include <set>
#include <utility>

#include "comm/agreement.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
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
  run::require_journalled(source.paths, name, layer.generation, layer.sha256);
  return run::read_layer(source.paths, name, layer.generation);
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

bool whole(const std::vector<std::string>& problems) {
  if (!problems.empty()) core::log_warning("{}; exported again", problems.front());
  return problems.empty();
}

/// Whether RUN/export is whole and holds the layers of the run.
bool up_to_date(const run::Run& run, const exporting::Target& target) {
  try {
    const auto manifest = exporting::read_manifest(run.paths.exported());
    return manifest && manifest->layout == target.layout && manifest->profile == target.profile &&
           manifest->layers == run::published_sums(run.state) &&
           whole(exporting::check_files(run.paths.exported(), *manifest));
  } catch (const core::FormatError& error) {
    core::log_warning("{}; exported again", error.what());
    return false;
  }
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

}  // namespace

void export_run(const ExportSource& source, const exporting::Target& target, const fs::path& out,
                const fs::path& temporary,
                const std::function<void(const std::string&, std::size_t, std::size_t)>& progress) {
  if (const auto missing = missing_layers(source); !missing.empty()) refuse_incomplete(source, target, missing);
  for (const auto& [name, tensor] : source.state.tensors)
    run::require_journalled(source.paths, name, tensor.generation, tensor.sha256);
  exporting::ExportRequest request;
  const run::RunSource tensors(source.original, source.paths, {{}, run::published(source.state).tensors});
  request.original = &source.original;
  request.tensors = &tensors;
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
  request.figures = card_figures(source.paths);
  request.progress = progress;
  exporting::write_checkpoint(request, out, temporary);
}

namespace {

/// RUN/export, made again unless it holds what the run holds. Layers that were given up keep it from being made, which
/// is a warning; so do damaged tensors that it would hold as they are, which is journalled, and what the format cannot
/// hold, unless the stage was asked for by name. Throws StopRequested between layers when a stop was asked for.
void run_export_stage(Work& work) {
  run::Run& run = work.run;
  const run::Settings& settings = work.settings;
  const exporting::Target target = run::export_target(settings);
  const ExportSource source{run.paths, run.state, *work.inputs.model,
                            settings.tokenizer.empty() ? settings.model : settings.tokenizer, run.parameters.method()};
  if (const auto missing = missing_layers(source); !missing.empty()) {
    core::log_warning("not exported: {} layers are not quantized, {} first", missing.size(), missing.front());
    return;
  }
  const auto give_up = [&](const std::string& error) {
    core::log_error("not exported: {}", error);
    run.append(run::Quarantined{kExportTask, error});
  };
  if (up_to_date(run, target)) {
    core::log_info("{}: is there already", run.paths.exported().string());
    return;
  }
  const Clock::time_point start = Clock::now();
  run.start->remove(run.paths.exported());
  try {
    export_run(source, target, run.paths.exported(), run.start->temporary(run.paths.exported()), StageProgress(work));
  } catch (const model::BadValues& error) {
    // Of a tensor that is stored as it is: the layers of the run are as good as they were.
    return give_up(error.what());
  } catch (const core::ConfigError& error) {
    if (run::asks_for_stage(settings, "export")) throw;
    core::log_warning("not exported: {}", error.what());
    return;
  }
  if (run.state.quarantined.contains(kExportTask)) run.append(run::TaskDone{kExportTask});
  run.append(run::StageTime{"export", std::chrono::duration<double>(Clock::now() - start).count(), core::unix_time()});
  core::log_info("exported: {}", run.paths.exported().string());
}

}  // namespace

StageRun begin_export(Work& work) {
  return [&work](const Window&) { comm::on_root(work.world, [&] { run_export_stage(work); }); };
}

}  // namespace voronoi::stages
