#include "jobs/quantize_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/option.h"
#include "export/layout.h"
#include "model/calibration_windows.h"
#include "model/precision.h"
#include "planning/preset.h"
#include "quant/method.h"
#include "run/resume.h"
#include "run/run_state.h"
#include "stages/stage.h"
#include "store/run_directory.h"

namespace voronoi::jobs {

core::OptionSpec export_profile_option(std::string& profile) {
  return core::choice_option(
      "export-profile",
      "what an export in VPTQ's format may use; safe: what every loader of it reads; full: also --groups and "
      "--outlier-percent, read by vptq's own client and transformers",
      profile, {"safe", "full"});
}

core::OptionSpec export_layout_option(const std::string& name, std::string& layout) {
  return core::choice_option(
      name,
      "layout of the exported checkpoint; auto: vptq for vectors, for integers compressed-tensors, or gptq at 3 bits; "
      "awq: 4 bits alone",
      layout, exporting::layout_choices());
}

namespace {

/// `own`: the option of the methods that have bits as a parameter.
core::OptionSpec bits_option(run::Settings& o, const core::OptionSpec& own) {
  std::map<std::vector<std::string>, std::vector<std::string_view>> choosers;  // methods by what they choose
  for (const quant::Method* method : quant::methods())
    if (auto chosen = method->chosen_by_bits(); !chosen.empty()) choosers[std::move(chosen)].push_back(method->name());
  std::string help = own.help;
  for (const auto& [chosen, names] : choosers)
    help += fmt::format(
        "; {}: chooses {} for the model's size, so that true bits, all that is stored included, are at most this and "
        "{:g} %",
        fmt::join(names, ", "), fmt::join(chosen, ", "), 100 * quant::kBitsMargin);
  return {own.name, "X", std::move(help),
          [&o, assign = own.assign](const std::string& text) -> std::string {
            double value = 0;
            const std::string problem =
                core::number_option("bits", "", value, quant::kLeastBits, quant::kMostBits).assign(text);
            if (!problem.empty()) return problem;
            o.bits = value;
            return value == std::floor(value) ? assign(fmt::format("{:g}", value)) : std::string();
          },
          false};
}

core::OptionSpec weights_option(std::vector<std::int64_t>& weights) {
  return {"calibration-weights", "LIST",
          "2,1,0.5: what share of the windows each --calibration-text gives, in their order [all alike]",
          [&weights](const std::string& list) { return model::parse_weights(list, weights); }, false};
}

core::OptionSpec rule_option(run::Settings& o) {
  return {kRuleOption, "RULE",
          "\"PATTERN NAME=VALUE ...\": other parameters for the linears whose whole name matches the pattern (*, ?, "
          "[...]), bits among them, or quantize=false to leave them as they are; of several that match the last "
          "counts; a table [[rules]] of the config file says the same (may be given several times)",
          [&o](const std::string& text) {
            quant::Rule rule;
            std::string problem = quant::parse_rule(text, rule);
            if (problem.empty()) o.rules.push_back(std::move(rule));
            return problem;
          },
          true};
}

constexpr std::pair<std::string_view, quant::Effort> kEfforts[] = {
    {"quick", quant::Effort::quick}, {"normal", quant::Effort::normal}, {"best", quant::Effort::best}};

/// "quick: voronoi: --rounds 1; normal: ..."
std::string effort_help() {
  std::string help = "what to spend on quality where these options are not given";
  for (const auto& [name, effort] : kEfforts)
    for (const quant::Method* method : quant::methods()) {
      std::string options;
      for (const auto& [option, value] : method->effort(effort)) options += fmt::format(" --{} {}", option, value);
      if (!options.empty()) help += fmt::format("; {}, {}:{}", name, method->name(), options);
    }
  return help;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> calibration_options(const std::string& directory) {
  const store::RunPaths paths{directory};
  if (directory.empty() || !std::filesystem::exists(paths.identity())) return {};
  try {
    const core::Json calibration = store::read_identity(paths).at("calibration");
    return {{"calibration-sequences", std::to_string(calibration.at("sequences").get<std::int64_t>())},
            {"calibration-context", std::to_string(calibration.at("context").get<std::int64_t>())},
            {"calibration-held-out", fmt::format("{}", calibration.value("held_out", 0.0))},
            {"hessian", calibration.value("hessian", "plain")},
            {"hessian-groups", std::to_string(calibration.value("hessian_groups", std::int64_t{1}))},
            {"calibration-experts", calibration.value("experts", "routed")},
            // What left none out did not look for them, or there were none.
            {"calibration-duplicates", calibration.contains("duplicates") ? "drop" : "keep"}};
  } catch (const core::Json::exception& error) {
    throw core::FormatError(paths.identity().string(), error.what());
  }
}

bool names_texts(const run::Settings& settings) {
  return !settings.calibration_texts.empty() || !settings.calibration_preset.empty();
}

void complete(const std::vector<run::GivenOption>& given, run::Settings& settings) {
  planning::take_preset(settings);
  auto rule = settings.rules.begin();
  std::set<std::string, std::less<>> settled;
  for (const run::GivenOption& option : given) {
    settled.insert(option.name);
    if (option.name == kRuleOption && rule != settings.rules.end()) (rule++)->where = option.where;
  }
  const CommandSpec command = quantize_command(settings);
  const auto settle = [&](std::string_view name, std::string_view value) {
    if (!settled.emplace(name).second) return;
    const auto option = std::find_if(command.options.begin(), command.options.end(),
                                     [&](const core::OptionSpec& known) { return known.name == name; });
    VORONOI_REQUIRE(option != command.options.end(), fmt::format("no option --{}", name));
    if (const std::string problem = option->assign(std::string(value)); !problem.empty())
      throw core::ConfigError(fmt::format("--{}: {}", name, problem));
  };
  for (const auto& [name, value] : calibration_options(settings.hessians_from)) {
    if (name == "hessian-groups" && settings.hessian != "guided") continue;
    if (name == "hessian-groups" && settled.contains(name) && value != std::to_string(settings.hessian_groups))
      throw core::ConfigError(fmt::format("--hessian-groups {}: the Hessians of {} were made with {}; leave it out",
                                          settings.hessian_groups, settings.hessians_from, value));
    settle(name, value);
  }
  try {
    for (const auto& [name, value] : calibration_options(settings.run))
      if (name == "calibration-duplicates") settle(name, value);
  } catch (const core::Error&) {
    // What is wrong with the run's own identity is told where the run is opened.
  }
  if (settings.calibration == "sequential") settled.insert({"hessian", "allocate"});
  if (!settings.bits || (settled.contains("hessian") && settings.hessian != "guided")) settled.insert("allocate");
  for (const auto& [stage, option] : {std::pair("tune", "tune-phases"), std::pair("allocate", "allocate")})
    if (!settings.stages.empty() && !run::asks_for_stage(settings, stage)) settled.insert(option);
  for (const auto& [option, value] : effort_options(settings.effort, settings.parameters.method)) settle(option, value);
}

std::vector<std::pair<std::string_view, std::string_view>> effort_options(const std::string& effort,
                                                                          std::string_view method) {
  for (const auto& [name, value] : kEfforts)
    if (name == effort) return quant::find_method(method).effort(value);
  return {};
}

CommandSpec quantize_command(run::Settings& o) {
  CommandSpec command;
  command.name = "quantize";
  command.summary =
      "Calibrates and quantizes a model into a run directory, or resumes the run that is there; --run alone resumes it "
      "with "
      "the options of its last start.";
  command.usage = "[mpirun -n RANKS] voronoi quantize --model MODEL --run RUN --calibration-text FILE [options]";
  command.options = {
      core::as_path(core::text_option("model", "PATH", "Hugging Face directory (safetensors) or GGUF file", o.model)),
      core::text_option("run", "DIR", "run directory: created, or resumed when it is there", o.run),
      core::as_path(core::list_option("calibration-text", "FILE",
                                      "text for calibration, plain or JSON lines (*.jsonl), or packed (.gz, .zst)",
                                      o.calibration_texts)),
      weights_option(o.calibration_weights),
      core::text_option("calibration-preset", "PRESET",
                        "texts of a list in place of --calibration-text: " + planning::preset_names() +
                            ", or a file like configs/calibration/debian.json",
                        o.calibration_preset),
      core::as_path(core::text_option("calibration-data", "DIR",
                                      "folder of the preset's texts [the environment's VORONOI_DATA, or beside the "
                                      "preset's file]",
                                      o.calibration_data)),
      core::choice_option("calibration-duplicates",
                          "what becomes of windows whose tokens are those of one before; drop: left out and counted",
                          o.calibration_duplicates, {"drop", "keep"}),
      core::choice_option("calibration-experts",
                          "tokens that make the Hessian of an expert of a mixture; all: every one, whatever the router "
                          "says, while what leaves the block stays as it is; routed: those that it gets",
                          o.calibration_experts, {"routed", "all"}),
      core::integer_option("calibration-sequences", "windows of calibration text, shared by the texts",
                           o.calibration_sequences, 1, 1 << 24),
      core::integer_option("calibration-context", "tokens a window", o.calibration_context, 2, 1 << 24),
      core::choice_option("effort", effort_help(), o.effort, {"quick", "normal", "best"}),
      core::choice_option("hessian",
                          "guided: each token counts as much as the loss feels an error there, by one backward pass of "
                          "the unquantized model; plain: all alike",
                          o.hessian, {"plain", "guided"}),
      core::integer_option(
          "hessian-groups",
          "groups of a linear's outputs that have a guided Hessian each, which takes as many times the "
          "memory and disk; for methods that quantize vectors (vptq, voronoi)",
          o.hessian_groups, 1, run::kMostHessianGroups),
      core::number_option("calibration-held-out",
                          "share of the windows that enters no Hessian: what the others made is kept only where it "
                          "helps there too",
                          o.calibration_held_out, 0, 0.5),
      core::choice_option("calibration",
                          "inputs of a block come from the original or from the quantized blocks before it",
                          o.calibration, {"independent", "sequential"}),
      core::choice_option("target",
                          "what codes are fitted to; asymmetric, with sequential calibration: the weight that makes up "
                          "for what the quantized blocks before changed of its input; plain: the model's own",
                          o.target, {"plain", "asymmetric"}),
      quant::method_option(o.parameters),
      rule_option(o),
      core::switch_option("allocate",
                          "divide --bits among the linears by what the loss feels of their errors: a look at all of "
                          "them, whose Hessians are then all on disk, before any is quantized; the choice is kept in "
                          "RUN/allocation.cfg, for --config of other runs",
                          o.allocate),
      core::choice_option("device", "where to compute", o.device, {"auto", "cpu", "cuda"}),
      core::choice_option(
          "dtype", "operands of calibration's matrix products; auto: f32 on the CPU, the model's 16-bit type on a GPU",
          o.dtype, model::dtype_choices()),
      // Not --tune: mpirun looks for an option of its own of that name among the program's.
      core::choice_option(
          "tune-phases",
          "what to tune by gradients once all is quantized; block: each block by the error of what "
          "leaves it; end-to-end: all numbers of the packed model by its divergence from the "
          "unquantized one; codes: the same once more, and a hundredth of the codes move with each step; weights: the "
          "weights behind uniform codes are trained, and codes and scales follow",
          o.tune,
          {"none", "block", "end-to-end", "block,end-to-end", "end-to-end,codes", "block,end-to-end,codes", "weights"}),
      core::as_path(core::list_option("tune-text", "FILE", "text to tune on [that of calibration]", o.tune_texts)),
      core::integer_option("tune-tokens",
                           "tokens of text to tune on, an eighth of them held out; 0: as many as calibration takes",
                           o.tune_tokens, 0, std::int64_t{1} << 40),
      core::integer_option("tune-passes", "how often to go over them", o.tune_passes, 1, 1000),
      core::number_option("tune-held-out", "share of the sequences that only tells whether tuning helps",
                          o.tune_held_out, 0.001, 0.5),
      core::choice_option("tune-dtype",
                          "operands of tuning's matrix products; numbers, their steps and all sums are fp32 in both",
                          o.tune_dtype, {"f32", "bf16"}),
      core::number_option(
          "tune-learning-rate",
          "largest step of a centroid, as a share of its codebook's root mean square, or of a weight, as one "
          "of its linear's; 0: by the model's width and the bits",
          o.tune_learning_rate, 0, 1),
      core::as_path(core::list_option("validate-text", "FILE",
                                      "text on which the stored layers are held against the unquantized model in the "
                                      "end: perplexity and KL divergence",
                                      o.validate_texts)),
      core::choice_option("validate-join",
                          "how such a file becomes one text; auto: jsonl where its content is JSON documents, else raw",
                          o.validate_join, {"auto", "raw", "wikitext", "jsonl"}),
      core::integer_option("validate-context", "tokens a window of it", o.validate_context, 2, 1 << 24),
      core::integer_option("validate-windows", "at most so many windows from the start; 0 for all", o.validate_windows,
                           0, std::int64_t{1} << 40),
      core::text_option("validate-tasks", "LIST",
                        "questions put to the stored layers and the unquantized model in the end: tasks or task files, "
                        "as `eval --tasks` takes them",
                        o.validate_tasks),
      core::as_path(core::text_option("task-data", "DIR", "folder of the tasks' data", o.task_data)),
      core::integer_option("validate-limit", "questions of a task, from its first; 0: all", o.validate_limit, 0,
                           std::int64_t{1} << 40),
      core::integer_option("validate-shots", "answered questions before each", o.validate_shots, 0, 1000),
      core::text_option(
          "stages", "LIST",
          "stages to run, separated by commas: " + stages::stage_names() +
              " [all that apply: tune with --tune-phases, export where a checkpoint layout can hold the layers, "
              "validate with --validate-text or --validate-tasks]",
          o.stages),
      export_layout_option("export-format", o.export_layout),
      export_profile_option(o.export_profile),
      core::as_path(core::text_option("tokenizer", "PATH",
                                      "tokenizer file or directory, when it is not beside the model", o.tokenizer)),
      core::integer_option("hessian-window", "blocks whose Hessians are on disk at a time (independent calibration)",
                           o.hessian_window, 1, 1 << 20),
      core::switch_option("keep-hessians",
                          "do not delete Hessians after use, so that other runs can take them by --hessians-from",
                          o.keep_hessians),
      core::as_path(core::text_option("hessians-from", "RUN",
                                      "take the Hessians that another run with the same model and calibration has kept",
                                      o.hessians_from)),
      core::integer_option("team-size",
                           "ranks of a team, which share the rows of a wide task's operators; 0 chooses by cost",
                           o.team_size, 0, 1024),
      core::integer_option("threads", "threads a rank; 0 divides the host's cores by its ranks", o.threads, 0, 1024),
      core::integer_option("max-tries", "failures after which a task is given up and listed", o.max_tries, 1, 100),
      core::list_option("set", "NAME=VALUE",
                        "on resume: change a parameter for the layers that are not done yet; recorded in the journal",
                        o.set),
      core::choice_option("log-level", "what to print", o.log_level, {"debug", "info", "warning", "error"}),
  };
  for (core::OptionSpec& option : quant::parameter_options(o.parameters)) {
    option.assign = [&o, name = option.name, assign = std::move(option.assign)](const std::string& text) {
      o.given_parameters.insert(name);
      return assign(text);
    };
    command.options.push_back(option.name == "bits" ? bits_option(o, option) : std::move(option));
  }
  command.examples =
      "  # about 2 bits, two ranks; run it again after any interruption to resume\n"
      "  mpirun -n 2 voronoi quantize --model SmolLM2-135M --run runs/2bit --calibration-text wiki.txt --method "
      "voronoi\n"
      "  # what the first one would do: opens and checks everything, predicts, writes nothing\n"
      "  mpirun -n 2 voronoi quantize --model SmolLM2-135M --run runs/2bit --calibration-text wiki.txt --method "
      "voronoi --dry-run\n"
      "  # goes on with that run from its directory alone\n"
      "  mpirun -n 2 voronoi quantize --run runs/2bit\n"
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

std::vector<run::GivenOption> options_of_run(const std::vector<std::string>& arguments) {
  run::Settings settings;
  if (parse(quantize_command(settings), arguments, true).help || settings.run.empty()) return {};
  if (!settings.model.empty() && names_texts(settings)) return {};
  return options_of_start(settings.run, run::kQuantize);
}

std::vector<run::GivenOption> options_of_start(const std::string& directory, std::string_view command) {
  const store::RunPaths paths{directory};
  if (directory.empty() || !std::filesystem::exists(paths.journal())) return {};
  const run::RunState state = run::read_state(paths);
  if (state.last_start && state.last_start->command != command)
    throw core::ConfigError(fmt::format("{}: was made by voronoi {}; to go on with it: {}", directory,
                                        state.last_start->command, run::describe_resume(paths, state)));
  return run::resume_options(paths, state);
}

core::LogLevel log_level(const std::string& name) {
  if (name == "debug") return core::LogLevel::debug;
  if (name == "warning") return core::LogLevel::warning;
  if (name == "error") return core::LogLevel::error;
  return core::LogLevel::info;
}

}  // namespace voronoi::jobs
