#include "stages/inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "export/layout.h"
#include "model/each_linear.h"
#include "model/precision.h"
#include "planning/bits.h"
#include "planning/model_sizes.h"
#include "validation/qa.h"
#include "validation/text_evaluation.h"

namespace voronoi::stages {
namespace {

core::Json calibration_json(const run::Settings& options, const Inputs& inputs) {
  core::Json texts = core::Json::array();
  for (const model::Text& text : inputs.texts)
    texts.push_back({{"sha256", text.sha256}, {"join", model::join_name(text.join)}});
  const std::vector<std::int64_t>& weights = options.calibration_weights;
  if (std::adjacent_find(weights.begin(), weights.end(), std::not_equal_to<>()) != weights.end())
    for (std::size_t t = 0; t < weights.size(); ++t)
      texts[t]["weight"] = static_cast<double>(weights[t]) / static_cast<double>(model::kWeightUnit);
  core::Json json{{"texts", texts},
                  {"sequences", options.calibration_sequences},
                  {"context", options.calibration_context},
                  {"mode", options.calibration},
                  {"ids", core::sha256(std::as_bytes(std::span(inputs.windows.ids)))}};
  // Named only where they are not what every run had before there was a choice.
  if (options.calibration_held_out > 0) json["held_out"] = options.calibration_held_out;
  if (options.hessian != "plain") json["hessian"] = options.hessian;
  if (options.hessian_groups > 1) json["hessian_groups"] = options.hessian_groups;
  if (options.target != "plain") json["target"] = options.target;
  if (options.calibration_experts != "routed") json["experts"] = options.calibration_experts;
  if (std::any_of(inputs.shares.begin(), inputs.shares.end(), [](const auto& gave) { return gave.duplicates > 0; }))
    json["duplicates"] = "dropped";
  // Named only where it is not the CPU's own, so that runs of fp32 keep the identity they always had.
  if (inputs.dtype != core::DType::f32) json["dtype"] = model::product_dtype_name(inputs.dtype);
  return json;
}

void check_shapes(const run::Settings& options, const model::ModelConfig& config) {
  const quant::RunParameters parameters = run::run_parameters(options);
  std::vector<std::string> problems = planning::shape_problems(parameters, config);
  std::map<const quant::QuantParameters*, std::vector<exporting::LayerShape>> shapes;
  model::for_each_linear(config, [&](const model::SiteSpec&, const model::LinearSpec& linear) {
    shapes[parameters.of(linear.name)].push_back({linear.out_features, linear.in_features});
  });
  if (run::asks_for_stage(options, "export")) {
    std::set<std::string> of_the_model;
    for (const auto& [own, list] : shapes) {
      const exporting::Layout* layout =
          own == nullptr ? nullptr : exporting::layout_of(run::export_target(options), *own);
      const auto found = exporting::check_exportable(config, layout == nullptr ? "" : layout->name());
      of_the_model.insert(found.begin(), found.end());
    }
    problems.insert(problems.end(), of_the_model.begin(), of_the_model.end());
    for (std::string& problem : parameters.problems_of_all([&](const quant::QuantParameters& own) {
           const exporting::Target target = run::export_target(options);
           std::vector<std::string> of_own = exporting::check_exportable(own, shapes[&own], target);
           for (std::string& problem : exporting::check_together(options.parameters, own, options.allocate, target))
             of_own.push_back(std::move(problem));
           return of_own;
         }))
      problems.push_back(std::move(problem));
  }
  if (!problems.empty()) throw core::ConfigError(problems);
}

/// Throws ConfigError with the problems of all runs.
void fit_to_model(const std::vector<run::Settings*>& runs, const model::ModelConfig& config) {
  std::vector<std::string> problems;
  for (run::Settings* options : runs) try {
      planning::resolve_bits(*options, config);
      check_shapes(*options, config);
    } catch (const core::ConfigError& error) {
      if (runs.size() == 1) throw;
      problems.push_back(std::filesystem::path(options->run).filename().string() + ": " + error.what());
    }
  if (!problems.empty()) throw core::ConfigError(problems);
}

void open_tuning(const run::Settings& options, Inputs& inputs) {
  std::vector<model::Text> own;
  for (const std::string& path : options.tune_texts)
    own.push_back(model::load_text(path, std::nullopt, inputs.chat.get()));
  const std::int64_t calibrated = options.calibration_sequences * options.calibration_context;
  try {
    inputs.tuning_windows = model::disjoint_windows(*inputs.tokenizer, own.empty() ? inputs.texts : own,
                                                    options.tune_tokens > 0 ? options.tune_tokens : calibrated,
                                                    std::min(run::kTuningContext, options.calibration_context));
    inputs.tuning_sequences = tune::divide(inputs.tuning_windows.count, options.tune_passes, options.tune_held_out);
  } catch (core::Error& error) {
    error.add_context("--tune-tokens");
    throw;
  }
}

/// Reads what the validation stage will: a text that is missing or too short is told before the work.
void check_validation(const run::Settings& options, const Inputs& inputs) {
  validation::TextOptions text;
  text.texts = options.validate_texts;
  text.join = options.validate_join;
  text.context = options.validate_context;
  try {
    validation::check_texts(text, *inputs.tokenizer, *inputs.chat);
  } catch (core::Error& error) {
    error.add_context("--validate-text");
    throw;
  }
  try {
    validation::check_tasks(
        {run::validate_tasks(options), options.task_data, options.validate_limit, options.validate_shots});
  } catch (core::Error& error) {
    error.add_context("--validate-tasks");
    throw;
  }
}

}  // namespace

Inputs open_inputs(run::Settings& options, const backend::Context& context) {
  return open_inputs(std::vector<run::Settings*>{&options}, context);
}

Inputs open_inputs(const std::vector<run::Settings*>& runs, const backend::Context& context) {
  run::Settings& options = *runs.front();
  Inputs inputs;
  inputs.model = model::open_model(options.model);
  inputs.dtype = model::product_dtype(options.dtype, context, inputs.model->config());
  if (options.calibration_experts == "all" && inputs.model->config().mixture.n_experts == 0)
    throw core::ConfigError("--calibration-experts all: the model is no mixture; leave it out");
  fit_to_model(runs, inputs.model->config());
  const std::string& tokenizer = options.tokenizer.empty() ? options.model : options.tokenizer;
  inputs.tokenizer = model::open_tokenizer(tokenizer);
  inputs.chat = std::make_unique<model::ModelChat>(tokenizer);
  for (const std::string& path : options.calibration_texts) try {
      inputs.texts.push_back(model::load_text(path, std::nullopt, inputs.chat.get()));
    } catch (core::StoreError& error) {
      error.add_context("--calibration-text (where a text moved, it names the new place)");
      throw;
    }
  model::warn_beyond_positions(inputs.model->config(), options.calibration_context, options.model);
  model::CalibrationWindows calibrating =
      model::calibration_windows(*inputs.tokenizer, inputs.texts,
                                 {options.calibration_sequences, options.calibration_context,
                                  options.calibration_weights, options.calibration_duplicates == "keep"});
  inputs.windows = std::move(calibrating.windows);
  inputs.shares = std::move(calibrating.shares);
  if (!run::tune_phases(options).empty()) open_tuning(options, inputs);
  check_validation(options, inputs);
  const core::Json calibration = calibration_json(options, inputs);
  const std::string fingerprint = inputs.model->fingerprint();
  core::Json parameters = run::run_parameters(options).json();
  if (options.allocate) parameters["allocated_bits"] = *options.bits;
  // With sequential calibration the Hessians also depend on how the blocks before were quantized.
  core::Json decides{{"model", fingerprint}, {"calibration", calibration}};
  if (options.calibration == "sequential") decides["parameters"] = parameters;
  inputs.calibration = core::sha256(decides.dump());
  inputs.row_groups = options.hessian_groups;
  inputs.identity = {{"format", 1}, {"model", fingerprint}, {"calibration", calibration}, {"quantization", parameters}};
  return inputs;
}

}  // namespace voronoi::stages
