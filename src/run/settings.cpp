#include "run/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "calib/residual_stream.h"
#include "core/error.h"
#include "core/words.h"
#include "export/layout.h"
#include "model/calibration_windows.h"
#include "quant/method.h"

namespace voronoi::run {

std::vector<std::string> stage_list(const Settings& options) { return core::words_of_list(options.stages); }

std::vector<std::string> validate_tasks(const Settings& options) { return core::words_of_list(options.validate_tasks); }

std::vector<std::string> tune_phases(const Settings& options) {
  return options.tune == "none" ? std::vector<std::string>() : core::words_of_list(options.tune);
}

bool asks_for_stage(const Settings& options, std::string_view stage) {
  const std::vector<std::string> list = stage_list(options);
  return std::find(list.begin(), list.end(), stage) != list.end();
}

calib::HessianKind hessian_kind(const Settings& options) {
  const std::int64_t chunks = calib::calibration_chunks(options.calibration_sequences, options.calibration_context);
  // Of few windows none is kept out.
  const double held_out =
      calib::n_held_out(0, chunks, options.calibration_held_out) > 0 ? options.calibration_held_out : 0;
  return {options.hessian == "guided",
          held_out,
          options.calibration == "sequential",
          options.target == "asymmetric",
          options.calibration_experts == "all",
          options.hessian_groups,
          options.calibration_sequences * options.calibration_context};
}

std::int64_t hessian_window(const Settings& options, std::int64_t n_layers) {
  if (options.calibration == "sequential") return 1;
  return options.allocate ? n_layers : std::min(options.hessian_window, n_layers);
}

quant::RunParameters run_parameters(const Settings& options, const std::vector<std::string>& allocated) {
  std::vector<quant::Rule> rules;
  for (const std::string& text : allocated) {
    const std::string problem = quant::parse_rule(text, rules.emplace_back());
    VORONOI_REQUIRE(problem.empty(), "a rule of --allocate: " + problem);
    if (rules.back().bits) quant::take_bits_as_value(rules.back());
    rules.back().where = "--allocate";
  }
  rules.insert(rules.end(), options.rules.begin(), options.rules.end());
  return {options.parameters, std::move(rules)};
}

std::vector<std::string> check_bits(const Settings& o) {
  if (!o.bits) return {};
  if (o.allocate && quant::find_method(o.parameters.method).chosen_by_bits().empty()) return {};  // any true bits
  return quant::bits_problems(quant::find_method(o.parameters.method), *o.bits,
                              [&](const std::string& name) { return o.given_parameters.contains(name); });
}

std::vector<std::string> check_allocate(const Settings& o) {
  if (!o.allocate) return {};
  std::vector<std::string> problems;
  if (!o.bits) problems.emplace_back("--allocate: needs --bits, the true bits that are to be divided");
  if (quant::find_method(o.parameters.method).settings(o.parameters, {}).empty())
    problems.push_back("--allocate: --method " + o.parameters.method + " has no settings to choose from");
  if (o.calibration == "sequential")
    problems.emplace_back(
        "--allocate: not with sequential calibration, which quantizes a block before it looks at the next");
  if (o.hessian != "guided")
    problems.emplace_back("--allocate: needs --hessian guided, which tells what the loss feels of an error");
  if (!o.stages.empty() && asks_for_stage(o, "quantize") && !asks_for_stage(o, "allocate"))
    problems.emplace_back("--stages: --allocate needs the stage allocate before quantize; name it too");
  return problems;
}

std::vector<std::string> check_row_groups(const Settings& o) {
  if (o.hessian_groups == 1) return {};
  if (o.hessian != "guided")
    return {fmt::format("--hessian-groups {}: needs --hessian guided, whose Hessians they are", o.hessian_groups)};
  std::string able;
  for (const quant::Method* method : quant::methods())
    if (method->takes_row_groups()) able += fmt::format("{}{}", able.empty() ? "" : ", ", method->name());
  return run_parameters(o).problems_of_all([&](const quant::QuantParameters& parameters) {
    const quant::Method& method = quant::find_method(parameters.method);
    if (!parameters.guided_metric || method.takes_row_groups()) return quant::Problems();
    return quant::Problems{
        fmt::format("--hessian-groups {}: --method {} quantizes all rows of a linear in one metric; leave it out, or "
                    "--guided-metric false; methods that take groups: {}",
                    o.hessian_groups, method.name(), able)};
  });
}

std::vector<std::string> check_texts(const Settings& o) {
  std::vector<std::string> problems;
  if (!o.calibration_weights.empty() && o.calibration_weights.size() != o.calibration_texts.size())
    return {fmt::format("--calibration-weights: {} weight(s) for {} text(s); give one a text, in their order",
                        o.calibration_weights.size(), o.calibration_texts.size())};
  if (static_cast<std::int64_t>(o.calibration_texts.size()) > o.calibration_sequences)
    return {"--calibration-sequences: fewer windows than texts"};
  if (o.calibration_weights.empty()) return {};
  const std::vector<std::int64_t> shares = model::apportion(o.calibration_sequences, o.calibration_weights);
  for (std::size_t t = 0; t < shares.size(); ++t)
    if (shares[t] == 0)
      problems.push_back(
          fmt::format("--calibration-weights: {} gives none of {} windows; raise its weight or "
                      "--calibration-sequences, or leave it out",
                      o.calibration_texts[t], o.calibration_sequences));
  return problems;
}

std::vector<std::string> check(const Settings& o) {
  std::vector<std::string> problems;
  if (o.model.empty()) problems.emplace_back("--model: is missing; give a Hugging Face directory or a GGUF file");
  if (o.run.empty()) problems.emplace_back("--run: is missing; give the directory to write to");
  if (o.calibration_texts.empty()) problems.emplace_back("--calibration-text: is missing; give at least one text file");
  problems.insert(problems.end(), o.missing_texts.begin(), o.missing_texts.end());
  for (const std::string& problem : check_texts(o)) problems.push_back(problem);
  if (o.target == "asymmetric" && o.calibration != "sequential")
    problems.emplace_back(
        "--target asymmetric: only with --calibration sequential, where the inputs of a block are those that the "
        "quantized blocks before it give");
  if (o.calibration == "sequential" && asks_for_stage(o, "calibrate") != asks_for_stage(o, "quantize"))
    problems.emplace_back("--stages: sequential calibration needs calibrate and quantize together, block by block");
  if (!o.validate_tasks.empty() && o.task_data.empty())
    problems.emplace_back("--task-data: is missing; give the folder of the data of --validate-tasks");
  if (o.validate_tasks.empty() && !o.task_data.empty())
    problems.emplace_back("--validate-tasks: is missing; name tasks of --task-data");
  quant::RunParameters changed = run_parameters(o);
  for (const std::string& assignment : o.set)
    if (const std::string problem = changed.set(assignment); !problem.empty()) problems.push_back("--set: " + problem);
  if (o.calibration == "sequential" && !o.hessians_from.empty())
    problems.emplace_back(
        "--hessians-from: not with sequential calibration, whose Hessians depend on the quantized blocks before");
  const quant::Method& method = quant::find_method(o.parameters.method);
  if (o.target == "asymmetric" && method.changes_site(o.parameters))
    problems.push_back("--target asymmetric: not with --method " + o.parameters.method +
                       ", which quantizes another weight than the model's own");
  const std::vector<std::string> phases = tune_phases(o);
  if (!phases.empty() && !method.can_be_tuned())
    problems.push_back("--tune-phases: layers of --method " + o.parameters.method +
                       " have no numbers to tune; leave it out");
  if (std::find(phases.begin(), phases.end(), "codes") != phases.end() && method.can_be_tuned() &&
      !method.codes_can_move())
    problems.push_back("--tune-phases codes: codes of --method " + o.parameters.method +
                       " stay as they are; block and end-to-end move its numbers");
  if (std::find(phases.begin(), phases.end(), "weights") != phases.end() && !method.uniform_layout(o.parameters))
    problems.push_back("--tune-phases weights: trains the weights behind uniform codes, which --method " +
                       o.parameters.method + " does not make; awq, bitdistiller, gptq or rtn do");
  for (const std::string& problem : check_bits(o)) problems.push_back(problem);
  for (const std::string& problem : check_allocate(o)) problems.push_back(problem);
  for (const std::string& problem : check_row_groups(o)) problems.push_back(problem);
  for (const std::string& problem : changed.check()) problems.push_back(problem);
  return problems;
}

exporting::Target export_target(const Settings& settings) {
  exporting::Target target{settings.export_layout, *exporting::profile_from_name(settings.export_profile)};
  if (const exporting::Layout* layout = exporting::layout_of(target, settings.parameters))
    target.layout = layout->name();
  return target;
}

std::vector<std::string> export_problems(const Settings& settings) {
  const exporting::Target target = export_target(settings);
  return run_parameters(settings).problems_of_all([&](const quant::QuantParameters& parameters) {
    std::vector<std::string> problems = exporting::check_exportable(parameters, {}, target);
    for (std::string& problem : exporting::check_together(settings.parameters, parameters, settings.allocate, target))
      problems.push_back(std::move(problem));
    return problems;
  });
}

}  // namespace voronoi::run
