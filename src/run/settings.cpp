#include "run/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <sstream>

namespace voronoi::run {

bool has_whole_bits(const quant::QuantParameters& p) { return p.method == "rtn" || p.method == "gptq"; }

std::vector<std::string> stage_list(const Settings& options) {
  std::vector<std::string> list;
  std::stringstream text(options.stages);
  for (std::string stage; std::getline(text, stage, ',');) list.push_back(stage);
  return list;
}

bool asks_for_stage(const Settings& options, std::string_view stage) {
  const std::vector<std::string> list = stage_list(options);
  return std::find(list.begin(), list.end(), stage) != list.end();
}

std::vector<core::OptionSpec> parameter_options(quant::QuantParameters& p) {
  return {
      core::integer_option("vector-length", "vptq, voronoi: rows of a column that share an index (v)", p.vector_length,
                           1, 32),
      core::integer_option("centroids", "vptq, voronoi: main codebook size (k), a power of two", p.centroids, 2, 65536),
      core::integer_option("residual-centroids", "vptq, voronoi: residual codebook size, a power of two, 0 for none",
                           p.residual_centroids, 0, 65536),
      core::number_option("outlier-percent", "vptq, voronoi: share of columns with a codebook of their own",
                          p.outlier_percent, 0, 50),
      core::integer_option("outlier-vector-length", "vptq, voronoi: vector length of the outlier columns",
                           p.outlier_vector_length, 1, 32),
      core::integer_option("outlier-centroids", "vptq, voronoi: codebook size of the outlier columns",
                           p.outlier_centroids, 2, 65536),
      core::integer_option("groups", "vptq, voronoi: column groups with a codebook each", p.groups, 1, 65535),
      core::integer_option("kmeans-iterations", "vptq, voronoi: at most so many k-means steps", p.kmeans_iterations, 1,
                           10000),
      core::number_option("kmeans-tolerance",
                          "vptq, voronoi: k-means stops when the objective falls by less than this share",
                          p.kmeans_tolerance, 0, 1),
      core::integer_option("rounds", "voronoi: rounds of codebook refit and column sweeps", p.rounds, 0, 100),
      core::integer_option("candidates", "voronoi: main candidates in the joint residual search", p.candidates, 1, 16),
      core::integer_option("bits", "rtn, gptq: bits a weight", p.bits, 1, 8),
      core::integer_option("group-size", "rtn, gptq: columns that share a scale; 0 for whole rows", p.group_size, 0,
                           1 << 20),
      core::number_option("damping", "share of the mean diagonal that is added to the Hessian before it is factored",
                          p.damping, 0, 1),
      core::OptionSpec{"act-order", "BOOL", "columns in order of falling Hessian diagonal [true]",
                       core::switch_option("act-order", "", p.act_order).assign, false},
  };
}

std::string apply_set(quant::QuantParameters& parameters, const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos) return "must be NAME=VALUE, not '" + assignment + "'";
  const std::string name = assignment.substr(0, equals);
  for (const core::OptionSpec& option : parameter_options(parameters))
    if (option.name == name) {
      const std::string problem = option.assign(assignment.substr(equals + 1));
      return problem.empty() ? problem : name + " " + problem;
    }
  std::string known;
  for (const core::OptionSpec& option : parameter_options(parameters))
    known += (known.empty() ? "" : ", ") + option.name;
  return "'" + name + "' cannot be set on resume; these can: " + known;
}

core::Json parameters_json(const quant::QuantParameters& p) {
  core::Json json{{"method", p.method}, {"seed", p.seed}, {"damping", p.damping}, {"act-order", p.act_order}};
  if (!has_whole_bits(p)) {
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

std::vector<std::string> check_bits(const Settings& o) {
  std::vector<std::string> problems;
  if (!o.bits) return problems;
  if (has_whole_bits(o.parameters)) {
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

std::vector<std::string> check(const Settings& o) {
  std::vector<std::string> problems;
  if (o.model.empty()) problems.emplace_back("--model: is missing; give a Hugging Face directory or a GGUF file");
  if (o.run.empty()) problems.emplace_back("--run: is missing; give the directory to write to");
  if (o.calibration_texts.empty()) problems.emplace_back("--calibration-text: is missing; give at least one text file");
  if (static_cast<std::int64_t>(o.calibration_texts.size()) > o.calibration_sequences)
    problems.emplace_back("--calibration-sequences: fewer windows than texts");
  if (o.calibration == "sequential" && asks_for_stage(o, "calibrate") != asks_for_stage(o, "quantize"))
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
  return problems;
}

}  // namespace voronoi::run
