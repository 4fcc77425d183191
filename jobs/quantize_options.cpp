#include "jobs/quantize_options.h"

#include <fmt/format.h>

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
#include "quant/footprint.h"

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

std::vector<OptionSpec> parameter_options(quant::QuantParameters& p) {
  return {
      integer_option("vector-length", "vptq, voronoi: rows of a column that share an index (v)", p.vector_length, 1,
                     32),
      integer_option("centroids", "vptq, voronoi: main codebook size (k), a power of two", p.centroids, 2, 65536),
      integer_option("residual-centroids", "vptq, voronoi: residual codebook size, a power of two, 0 for none",
                     p.residual_centroids, 0, 65536),
      number_option("outlier-percent", "vptq, voronoi: share of columns with a codebook of their own",
                    p.outlier_percent, 0, 50),
      integer_option("outlier-vector-length", "vptq, voronoi: vector length of the outlier columns",
                     p.outlier_vector_length, 1, 32),
      integer_option("outlier-centroids", "vptq, voronoi: codebook size of the outlier columns", p.outlier_centroids, 2,
                     65536),
      integer_option("groups", "vptq, voronoi: column groups with a codebook each", p.groups, 1, 65535),
      integer_option("kmeans-iterations", "vptq, voronoi: at most so many k-means steps", p.kmeans_iterations, 1,
                     10000),
      number_option("kmeans-tolerance", "vptq, voronoi: k-means stops when the objective falls by less than this share",
                    p.kmeans_tolerance, 0, 1),
      integer_option("rounds", "voronoi: rounds of codebook refit and column sweeps", p.rounds, 0, 100),
      integer_option("candidates", "voronoi: main candidates in the joint residual search", p.candidates, 1, 16),
      integer_option("bits", "rtn, gptq: bits a weight", p.bits, 1, 8),
      integer_option("group-size", "rtn, gptq: columns that share a scale; 0 for whole rows", p.group_size, 0, 1 << 20),
      number_option("damping", "share of the mean diagonal that is added to the Hessian before it is factored",
                    p.damping, 0, 1),
      OptionSpec{"act-order", "BOOL", "columns in order of falling Hessian diagonal [true]",
                 switch_option("act-order", "", p.act_order).assign, false},
  };
}

OptionSpec export_profile_option(std::string& profile) {
  return choice_option("export-profile",
                       "what an export may use; safe: what every loader of the format reads; full: also --groups and "
                       "--outlier-percent, read by vptq's own client and transformers",
                       profile, {"safe", "full"});
}

namespace {

bool is_uniform(const quant::QuantParameters& p) { return p.method == "rtn" || p.method == "gptq"; }

OptionSpec bits_option(QuantizeOptions& o) {
  constexpr double kLeast = 0.5, kMost = 8;
  return {
      "bits", "X",
      fmt::format("bits a weight. rtn, gptq: of a code [{}]. vptq, voronoi: chooses vector length and codebooks for "
                  "the model's size, so that true bits, codebooks included, are at most this and {:g} %",
                  o.parameters.bits, 100 * quant::kBitsMargin),
      [&o](const std::string& text) -> std::string {
        double value = 0;
        const std::string problem = number_option("bits", "", value, kLeast, kMost).assign(text);
        if (!problem.empty()) return problem;
        o.bits = value;
        if (value == std::floor(value)) o.parameters.bits = static_cast<int>(value);
        return {};
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
      choice_option("method", "quantization method", o.parameters.method, quant::quantizer_names()),
      OptionSpec{"seed", "N", "seed of all random choices [0]",
                 [&o](const std::string& text) -> std::string {
                   std::istringstream stream(text);
                   std::uint64_t value = 0;
                   if (text.empty() || text[0] == '-' || !(stream >> value) || !stream.eof())
                     return "must be an integer from 0 to 2^64 - 1, not '" + text + "'";
                   o.parameters.seed = value;
                   return {};
                 },
                 false},
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
  for (OptionSpec& option : parameter_options(o.parameters)) {
    if (option.name == "bits") option = bits_option(o);
    if (option.name == "vector-length" || option.name == "centroids" || option.name == "residual-centroids" ||
        option.name == "outlier-percent" || option.name == "groups")
      option.assign = [&o, name = option.name, assign = option.assign](const std::string& text) {
        o.codebook_options.insert(name);
        return assign(text);
      };
    command.options.push_back(std::move(option));
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

std::string apply_set(quant::QuantParameters& parameters, const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos) return "must be NAME=VALUE, not '" + assignment + "'";
  const std::string name = assignment.substr(0, equals);
  for (const OptionSpec& option : parameter_options(parameters))
    if (option.name == name) {
      const std::string problem = option.assign(assignment.substr(equals + 1));
      return problem.empty() ? problem : name + " " + problem;
    }
  std::string known;
  for (const OptionSpec& option : parameter_options(parameters)) known += (known.empty() ? "" : ", ") + option.name;
  return "'" + name + "' cannot be set on resume; these can: " + known;
}

core::Json parameters_json(const quant::QuantParameters& p) {
  core::Json json{{"method", p.method}, {"seed", p.seed}, {"damping", p.damping}, {"act-order", p.act_order}};
  if (!is_uniform(p)) {
    json["vector-length"] = p.vector_length;
    json["centroids"] = p.centroids;
    json["residual-centroids"] = p.residual_centroids;
    json["outlier-percent"] = p.outlier_percent;
    json["outlier-vector-length"] = p.outlier_vector_length;
    json["outlier-centroids"] = p.outlier_centroids;
    json["groups"] = p.groups;
    json["kmeans-iterations"] = p.kmeans_iterations;
    json["kmeans-tolerance"] = p.kmeans_tolerance;
  } else {
    json["bits"] = p.bits;
    json["group-size"] = p.group_size;
  }
  if (p.method == "voronoi") {
    json["rounds"] = p.rounds;
    json["candidates"] = p.candidates;
  }
  return json;
}

std::vector<std::string> check_bits(const QuantizeOptions& o) {
  std::vector<std::string> problems;
  if (!o.bits) return problems;
  if (is_uniform(o.parameters)) {
    if (*o.bits != std::floor(*o.bits))
      problems.push_back(
          fmt::format("--bits: {} codes have whole bits from 1 to 8, not {:g}", o.parameters.method, *o.bits));
  } else {
    for (const std::string& name : o.codebook_options)
      problems.push_back(
          fmt::format("--bits {:g} chooses the codebooks, and --{} does: give one or the other", *o.bits, name));
  }
  return problems;
}

void resolve_bits(QuantizeOptions& o, const model::ModelConfig& config) {
  if (!o.bits || is_uniform(o.parameters)) return;
  const std::vector<quant::LayerCount> layers = layer_counts(config);
  const auto chosen = quant::choose_setting(o.parameters, *o.bits, layers);
  if (!chosen) {
    const auto least = quant::least_true_bits(o.parameters, layers);
    throw core::ConfigError(
        fmt::format("--bits {:g}: no codebooks make this model so small; {}", *o.bits,
                    least ? fmt::format("the least is {:.3f} true bits", *least) : "its layers are too small for any"));
  }
  o.parameters = *chosen;
  const quant::QuantParameters& p = o.parameters;
  core::log_info("--bits {:g}: vector length {}, {} centroids{}: {:.3f} true bits a weight (nominal {:.3f})", *o.bits,
                 p.vector_length, p.centroids,
                 p.residual_centroids > 0 ? fmt::format(" and {} for residuals", p.residual_centroids) : "",
                 quant::true_bits(p, layers), quant::planned_nominal_bits(p));
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
