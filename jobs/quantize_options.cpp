#include "jobs/quantize_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/log.h"
#include "export/profile.h"
#include "jobs/model_sizes.h"
#include "jobs/process.h"
#include "quant/method.h"

namespace voronoi::jobs {
namespace {

constexpr std::array<std::string_view, 4> kStages{"calibrate", "quantize", "export", "report"};

std::vector<std::string> split_stages(const std::string& stages) {
  std::vector<std::string> list;
  std::stringstream text(stages);
  for (std::string stage; std::getline(text, stage, ',');) list.push_back(stage);
  return list;
}

exporting::Profile profile_of(const QuantizeOptions& options) {
  return *exporting::profile_from_name(options.export_profile);  // the option takes known names only
}

}  // namespace

bool asks_for_stage(const QuantizeOptions& options, std::string_view stage) {
  const std::vector<std::string> stages = split_stages(options.stages);
  return std::find(stages.begin(), stages.end(), stage) != stages.end();
}

bool has_stage(const QuantizeOptions& options, std::string_view stage) {
  if (!options.stages.empty()) return asks_for_stage(options, stage);
  return stage != "export" || exporting::check_exportable(options.parameters, {}, profile_of(options)).empty();
}

OptionSpec export_profile_option(std::string& profile) {
  return choice_option("export-profile",
                       "what an export may use; safe: what every loader of the format reads; full: also --groups and "
                       "--outlier-percent, read by vptq's own client and transformers",
                       profile, {"safe", "full"});
}

namespace {

/// `own`: the option of the methods that have bits as a parameter.
OptionSpec bits_option(QuantizeOptions& o, const OptionSpec& own) {
  constexpr double kLeast = 0.5, kMost = 8;
  std::string help = own.help;
  for (const quant::Method* method : quant::methods())
    if (const auto chosen = method->chosen_by_bits(); !chosen.empty())
      help += fmt::format(
          "; {}: chooses {} for the model's size, so that true bits, all that is stored included, are at most this and "
          "{:g} %",
          method->name(), fmt::join(chosen, ", "), 100 * quant::kBitsMargin);
  return {own.name, "X", std::move(help),
          [&o, assign = own.assign](const std::string& text) -> std::string {
            double value = 0;
            const std::string problem = number_option("bits", "", value, kLeast, kMost).assign(text);
            if (!problem.empty()) return problem;
            o.bits = value;
            return value == std::floor(value) ? assign(fmt::format("{:g}", value)) : std::string();
          },
          false};
}

}  // namespace

CommandSpec quantize_command(QuantizeOptions& o) {
  CommandSpec command;
  command.name = "quantize";
  command.summary = "Calibrates and quantizes a model into a run directory, or resumes the run that is there.";
  command.usage = "[mpirun -n RANKS] voronoi quantize --model MODEL --run RUN --calibration-text FILE [options]";
  command.options = {
      text_option("model", "PATH", "Hugging Face directory (safetensors) or GGUF file", o.model),
      text_option("run", "DIR", "run directory: created, or resumed when it is there", o.run),
      list_option("calibration-text", "FILE", "text for calibration, plain or JSON lines (*.jsonl)",
                  o.calibration_texts),
      integer_option("calibration-sequences", "windows of calibration text, shared evenly by the texts",
                     o.calibration_sequences, 1, 1 << 24),
      integer_option("calibration-context", "tokens a window", o.calibration_context, 2, 1 << 24),
      choice_option("calibration", "inputs of a block come from the original or from the quantized blocks before it",
                    o.calibration, {"independent", "sequential"}),
      quant::method_option(o.parameters),
      choice_option("device", "where to compute", o.device, {"auto", "cpu", "cuda"}),
      choice_option("dtype",
                    "operands of calibration's matrix products; auto: f32 on the CPU, the model's 16-bit type on a GPU",
                    o.dtype, dtype_choices()),
      text_option("stages", "LIST",
                  "stages to run, separated by commas: calibrate, quantize, export, report [all; export where VPTQ's "
                  "format can hold the layers]",
                  o.stages),
      export_profile_option(o.export_profile),
      text_option("tokenizer", "PATH", "tokenizer file or directory, when it is not beside the model", o.tokenizer),
      integer_option("hessian-window", "blocks whose Hessians are on disk at a time (independent calibration)",
                     o.hessian_window, 1, 1 << 20),
      switch_option("keep-hessians",
                    "do not delete Hessians after use, so that other runs can take them by --hessians-from",
                    o.keep_hessians),
      text_option("hessians-from", "RUN",
                  "take the Hessians that another run with the same model and calibration has kept", o.hessians_from),
      integer_option("team-size", "ranks that share the rows of one operator; 0 chooses by cost", o.team_size, 0, 1024),
      integer_option("threads", "threads a rank; 0 divides the host's cores by its ranks", o.threads, 0, 1024),
      integer_option("max-attempts", "failures after which a task is given up and listed", o.max_attempts, 1, 100),
      list_option("set", "NAME=VALUE",
                  "on resume: change a parameter for the layers that are not done yet; recorded in the journal", o.set),
      choice_option("log-level", "what to print", o.log_level, {"debug", "info", "warning", "error"}),
  };
  for (OptionSpec& option : quant::parameter_options(o.parameters)) {
    option.assign = [&o, name = option.name, assign = std::move(option.assign)](const std::string& text) {
      o.given.insert(name);
      return assign(text);
    };
    command.options.push_back(option.name == "bits" ? bits_option(o, option) : std::move(option));
  }
  command.examples =
      "  # about 2 bits, two ranks; run it again after any interruption to resume\n"
      "  mpirun -n 2 voronoi quantize --model SmolLM2-135M --run runs/2bit --calibration-text wiki.txt --method "
      "voronoi\n"
      "  # the best codebooks of at most 2.3 true bits for this model's size\n"
      "  voronoi quantize --model SmolLM2-135M --run runs/2.3bit --calibration-text wiki.txt --method voronoi --bits "
      "2.3\n"
      "  # about 3 bits: a residual codebook of 16\n"
      "  voronoi quantize --model model.gguf --run runs/3bit --calibration-text c4.jsonl --residual-centroids 16\n"
      "  # a baseline on the Hessians that runs/2bit kept with --keep-hessians\n"
      "  voronoi quantize --model SmolLM2-135M --run runs/gptq --calibration-text wiki.txt --method gptq --bits 2 "
      "--hessians-from runs/2bit\n"
      "Exit codes: 0 done, 2 usage, 3 bad data, 4 finished but some layers failed, 5 system, 75 stopped on request and "
      "resumable.\n";
  return command;
}

std::vector<std::string> check_bits(const QuantizeOptions& o) {
  std::vector<std::string> problems;
  if (!o.bits) return problems;
  const quant::Method& method = quant::find_method(o.parameters.method);
  const std::vector<std::string> chosen = method.chosen_by_bits();
  for (const std::string& name : chosen)
    if (o.given.contains(name))
      problems.push_back(fmt::format("--bits {:g} chooses what --{} says too: give one or the other", *o.bits, name));
  if (!chosen.empty()) return problems;
  const auto& own = method.parameters();
  if (std::none_of(own.begin(), own.end(), [](const auto& parameter) { return parameter.name == "bits"; }))
    problems.push_back(fmt::format("--bits: means nothing to --method {}; leave it out", method.name()));
  else if (*o.bits != std::floor(*o.bits))
    problems.push_back(fmt::format("--bits: {} codes have whole bits from 1 to 8, not {:g}", method.name(), *o.bits));
  return problems;
}

void resolve_bits(QuantizeOptions& o, const model::ModelConfig& config) {
  const quant::Method& method = quant::find_method(o.parameters.method);
  if (!o.bits || method.chosen_by_bits().empty()) return;
  const std::vector<quant::LayerCount> layers = layer_counts(config);
  const auto chosen = method.choose_setting(o.parameters, *o.bits, layers);
  if (!chosen) {
    const auto least = method.least_true_bits(o.parameters, layers);
    throw core::ConfigError(
        fmt::format("--bits {:g}: no setting of {} makes this model so small; {}", *o.bits, method.name(),
                    least ? fmt::format("the least is {:.3f} true bits", *least) : "its layers are too small for any"));
  }
  o.parameters = *chosen;
  core::log_info("--bits {:g}: {}: {:.3f} true bits a weight (nominal {:.3f})", *o.bits, method.setting(o.parameters),
                 quant::true_bits(o.parameters, layers), method.nominal_bits(o.parameters));
}

std::vector<std::string> check(const QuantizeOptions& o) {
  std::vector<std::string> problems;
  if (o.model.empty()) problems.emplace_back("--model: is missing; give a Hugging Face directory or a GGUF file");
  if (o.run.empty()) problems.emplace_back("--run: is missing; give the directory to write to");
  if (o.calibration_texts.empty()) problems.emplace_back("--calibration-text: is missing; give at least one text file");
  if (static_cast<std::int64_t>(o.calibration_texts.size()) > o.calibration_sequences)
    problems.emplace_back("--calibration-sequences: fewer windows than texts");
  for (const std::string& stage : split_stages(o.stages))
    if (std::find(kStages.begin(), kStages.end(), stage) == kStages.end())
      problems.push_back("--stages: '" + stage + "' is no stage; there are calibrate, quantize, export, report");
  if (o.calibration == "sequential" && has_stage(o, "calibrate") != has_stage(o, "quantize"))
    problems.emplace_back("--stages: sequential calibration needs calibrate and quantize together, block by block");
  quant::QuantParameters changed = o.parameters;
  for (const std::string& assignment : o.set)
    if (const std::string problem = apply_set(changed, assignment); !problem.empty())
      problems.push_back("--set: " + problem);
  if (o.calibration == "sequential" && !o.hessians_from.empty())
    problems.emplace_back(
        "--hessians-from: not with sequential calibration, whose Hessians depend on the quantized blocks before");
  for (const std::string& problem : check_bits(o)) problems.push_back(problem);
  for (const std::string& problem : quant::check_parameters(changed)) problems.push_back(problem);
  if (asks_for_stage(o, "export"))
    for (const std::string& problem : exporting::check_exportable(changed, {}, profile_of(o)))
      problems.push_back(problem);
  return problems;
}

}  // namespace voronoi::jobs
