#include "stages/outlook.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "model/each_linear.h"
#include "run/heartbeat.h"
#include "run/layer_store.h"
#include "stages/stage.h"
#include "store/run_directory.h"

namespace voronoi::stages {
namespace {

namespace fs = std::filesystem;

std::string size_text(std::int64_t bytes) { return core::format_bytes(static_cast<double>(bytes)); }

/// Space for this user at the nearest directory that is there.
std::int64_t free_space(const fs::path& root) {
  std::error_code error;
  fs::path place = fs::absolute(root).lexically_normal();
  while (!fs::exists(place, error) && place.has_relative_path()) place = place.parent_path();
  const fs::space_info space = fs::space(place, error);
  return error ? 0 : static_cast<std::int64_t>(space.available);
}

class Scout {
 public:
  Scout(const run::Settings& settings, const Inputs& inputs, const run::RunState& state, const planning::Plan& plan)
      : settings_(settings),
        inputs_(inputs),
        state_(state),
        plan_(plan),
        parameters_(run::run_parameters(settings)),
        paths_{settings.run} {}

  Outlook look() {
    out_.start = state_.start + 1;
    out_.windows = inputs_.windows.count;
    out_.calibration_tokens = inputs_.windows.count * inputs_.windows.context;
    look_at_directory();
    look_at_stages();
    count_layers();
    if (!settings_.hessians_from.empty()) look_at_foreign_hessians();
    look_at_disk();
    return std::move(out_);
  }

 private:
  void add(std::vector<std::string> problems) {
    for (std::string& problem : problems) out_.problems.push_back(std::move(problem));
  }

  void look_at_directory() {
    add(store::run_directory_problems(paths_));
    if (fs::exists(paths_.identity())) add(store::identity_problems(paths_, inputs_.identity));
    if (std::optional<std::string> problem = run_at_work(settings_, state_))
      out_.problems.push_back(*std::move(problem));
  }

  void look_at_stages() {
    add(unmet_needs(settings_, state_));
    for (const Stage& stage : stages()) {
      StageOutlook one{std::string(stage.name), state_.stages_done.contains(std::string(stage.name)), ""};
      if (!is_wanted(settings_, stage.name))
        one.left_out = settings_.stages.empty() ? fmt::format("{}", fmt::join(stage.reasons_against(settings_), "; "))
                                                : "--stages does not name it";
      out_.stages.push_back(std::move(one));
    }
  }

  bool is_wanted_layer(const model::LinearSpec& linear) const { return parameters_.of(linear.name) != nullptr; }
  bool is_done(const model::LinearSpec& linear) const {
    const auto layer = state_.layers.find(linear.name);
    return layer != state_.layers.end() && fs::exists(paths_.layer(linear.name, layer->second.generation));
  }

  void count_layers() {
    model::for_each_linear(inputs_.model->config(), [&](const model::SiteSpec&, const model::LinearSpec& linear) {
      if (!is_wanted_layer(linear)) return;
      ++out_.layers;
      if (is_done(linear))
        ++out_.layers_done;
      else
        out_.weights_left += linear.out_features * linear.in_features;
    });
  }

  /// All must be there; that they are of this model and calibration is read from one.
  void look_at_foreign_hessians() {
    const store::RunPaths donor{settings_.hessians_from};
    bool read = false;
    std::int64_t missing = 0;
    std::string first;
    model::for_each_site(inputs_.model->config(), [&](std::int64_t block, const model::SiteSpec& site) {
      bool pending = false;
      for (const model::LinearSpec& linear : site.linears)
        pending = pending || (is_wanted_layer(linear) && !is_done(linear));
      if (!pending) return;
      const fs::path file = donor.hessian(block, site.name);
      if (!fs::exists(file)) {
        if (missing++ == 0) first = file.string();
      } else if (!std::exchange(read, true)) {
        try {
          run::read_hessian(donor, block, site.name, site.in_features, inputs_.calibration);
        } catch (const core::Error& error) {
          out_.problems.push_back(fmt::format("--hessians-from: {}", error.what()));
        }
      }
    });
    if (missing > 0)
      out_.problems.push_back(
          fmt::format("--hessians-from: {} Hessians are not there, {} first; make that run with "
                      "--keep-hessians, or leave --hessians-from out",
                      missing, first));
  }

  void look_at_disk() {
    const double left = plan_.quantized_weights > 0
                            ? static_cast<double>(out_.weights_left) / static_cast<double>(plan_.quantized_weights)
                            : 0;
    const std::int64_t codes = plan_.quantized_bits / 8;
    if (is_wanted(settings_, "quantize"))
      out_.disk_bytes += static_cast<std::int64_t>(left * static_cast<double>(codes));
    if (is_wanted(settings_, "calibrate") && settings_.hessians_from.empty() && out_.weights_left > 0)
      out_.disk_bytes +=
          plan_.hessian_bytes * (settings_.keep_hessians ? inputs_.model->config().n_layers : plan_.windows.blocks);
    if (is_wanted(settings_, "export") && !fs::exists(paths_.exported())) out_.disk_bytes += codes + plan_.rest_bytes;
    out_.free_bytes = free_space(paths_.root);
    if (out_.free_bytes > 0 && out_.disk_bytes > out_.free_bytes)
      out_.problems.push_back(
          fmt::format("{}: the run would write {} and the disk has {} left; make space, or choose "
                      "another place with --run",
                      settings_.run, size_text(out_.disk_bytes), size_text(out_.free_bytes)));
  }

  const run::Settings& settings_;
  const Inputs& inputs_;
  const run::RunState& state_;
  const planning::Plan& plan_;
  quant::RunParameters parameters_;
  store::RunPaths paths_;
  Outlook out_;
};

}  // namespace

run::RunState existing_state(const run::Settings& settings) {
  const store::RunPaths paths{settings.run};
  return fs::exists(paths.journal()) ? run::read_state(paths) : run::RunState{};
}

std::optional<std::string> run_at_work(const run::Settings& settings, const run::RunState& state) {
  const std::optional<run::Heartbeat> last = run::read_heartbeat(store::RunPaths{settings.run});
  if (!last || !run::is_alive(*last, state)) return std::nullopt;
  return fmt::format(
      "{}: start {} of the run is at work (voronoi status tells more); wait for its end, or choose "
      "another place with --run",
      settings.run, state.start);
}

void apply_sets(run::Settings& settings, const run::RunState& state) {
  for (const std::vector<std::string>* sets : {&state.sets, &std::as_const(settings).set})
    for (const std::string& assignment : *sets)
      if (const std::string problem = quant::apply_set(settings.parameters, assignment); !problem.empty())
        throw core::ConfigError("--set: " + problem);
}

Outlook look_ahead(const run::Settings& settings, const Inputs& inputs, const run::RunState& state,
                   const planning::Plan& plan) {
  return Scout(settings, inputs, state, plan).look();
}

std::string outlook_text(const run::Settings& settings, const Outlook& outlook) {
  std::string text = "\nThe start\n";
  text += outlook.start > 1 ? fmt::format("  would be start {} of {}, which it resumes\n", outlook.start, settings.run)
                            : fmt::format("  would be the first of a new run, {}\n", settings.run);
  text +=
      fmt::format("  calibration: {} windows, {} tokens of {} text{}\n", outlook.windows, outlook.calibration_tokens,
                  settings.calibration_texts.size(), settings.calibration_texts.size() == 1 ? "" : "s");
  text += fmt::format("  linears: {} of {} are done, {:.4g} million weights are left\n", outlook.layers_done,
                      outlook.layers, static_cast<double>(outlook.weights_left) / 1e6);
  for (const StageOutlook& stage : outlook.stages)
    text += fmt::format("  {:<10}{}\n", stage.name,
                        !stage.left_out.empty() ? "left out: " + stage.left_out
                        : stage.ended           ? "came to its end already"
                                                : "to do");
  text += fmt::format("  disk: at most {} to write, {} free\n", size_text(outlook.disk_bytes),
                      size_text(outlook.free_bytes));
  for (const std::string& problem : outlook.problems) text += "  " + problem + "\n";
  return text;
}

}  // namespace voronoi::stages
