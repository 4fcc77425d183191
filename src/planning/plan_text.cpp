// Plans for people, as JSON, and as an sbatch command.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/log.h"
#include "core/option.h"
#include "core/types.h"
#include "planning/folding.h"
#include "planning/plan.h"
#include "run/settings.h"

namespace voronoi::planning {
namespace {

std::string size_text(double bytes) { return core::format_bytes(bytes); }
std::string size_text(std::int64_t bytes) { return size_text(static_cast<double>(bytes)); }

double bits_a_weight(std::int64_t bits, std::int64_t weights) {
  return weights > 0 ? static_cast<double>(bits) / static_cast<double>(weights) : 0;
}

std::string flops_text(double flops) {
  static constexpr const char* kUnits[] = {"flop", "kflop", "Mflop", "Gflop", "Tflop", "Pflop", "Eflop"};
  std::size_t unit = 0;
  while (flops >= 999.5 && unit + 1 < std::size(kUnits)) {
    flops /= 1000;
    ++unit;
  }
  return flops > 0 ? fmt::format("{:.3g} {}", flops, kUnits[unit]) : "-";
}

std::string time_flag(double seconds) {
  // Half as long again, ten minutes to start and stop, whole minutes.
  const auto minutes = static_cast<std::int64_t>(std::ceil((1.5 * seconds + 600) / 60));
  const std::int64_t days = minutes / 1440, hours = minutes / 60 % 24;
  return days > 0 ? fmt::format("{}-{:02}:{:02}:00", days, hours, minutes % 60)
                  : fmt::format("{:02}:{:02}:00", hours, minutes % 60);
}

int ranks_on_a_node(const PlanRequest& request) { return std::min(request.ranks_per_node, request.n_ranks); }

/// A fifth more than predicted, and a gibibyte for the system's own buffers.
std::string memory_flag(std::int64_t predicted_bytes) {
  constexpr double kStepMebibytes = 64, kLargeMebibytes = 16 * 1024;
  const double mebibytes = 1.2 * static_cast<double>(predicted_bytes) / 0x1p20 + 1024;
  if (mebibytes > kLargeMebibytes) return fmt::format("{:.0f}G", std::ceil(mebibytes / 1024));
  return fmt::format("{:.0f}M", kStepMebibytes * std::ceil(mebibytes / kStepMebibytes));
}

/// `ruled`: linears of a role may differ, and tell their settings.
std::string stored_table(const Plan& plan, bool ruled) {
  std::string text = fmt::format("  {:<28}{:>18}{:>7}{:>8}{:>9}{:>11}{:>9}{:>12}\n", "linear", "shape", "count", "bits",
                                 "indices", "codebooks", "scales", "each");
  for (const PlannedLinear& linear : plan.linears) {
    const auto bits = [&](std::int64_t part) { return bits_a_weight(part, linear.weights()); };
    text += fmt::format("  {:<28}{:>18}{:>7}{:>8.3f}{:>9.3f}{:>11.3f}{:>9.3f}{:>12}{}\n", linear.role,
                        fmt::format("{} x {}", linear.out_features, linear.in_features), linear.count,
                        bits(linear.stored.total()), bits(linear.stored.indices), bits(linear.stored.codebooks),
                        bits(linear.stored.scales + linear.stored.permutation), size_text(linear.stored.total() / 8),
                        ruled ? "  " + linear.setting : "");
  }
  return text;
}

}  // namespace

std::vector<std::string> sbatch_options(const PlanRequest& request, const Plan& plan) {
  const int on_node = ranks_on_a_node(request);
  std::vector<std::string> options{fmt::format("--nodes={}", core::ceil_div(request.n_ranks, request.ranks_per_node)),
                                   fmt::format("--ntasks-per-node={}", on_node)};
  if (request.cuda) options.push_back(fmt::format("--gpus-per-node={}", on_node));
  options.push_back(fmt::format("--cpus-per-task={}", request.threads));
  options.push_back("--mem=" + memory_flag(plan.node(on_node).bytes));
  options.push_back("--time=" + time_flag(plan.total_seconds));
  return options;
}

std::vector<std::string> job_words(const PlanRequest& request) {
  const run::Settings& o = request.options;
  std::vector<std::string> words{o.model, o.run.empty() ? "RUN" : o.run};
  bool device = false;
  for (const run::GivenOption& option : request.given) {
    if (option.name == "model" || option.name == "run") continue;
    device = device || option.name == "device";
    words.push_back("--" + option.name);
    if (!option.value.empty()) words.push_back(option.value);
  }
  if (request.cuda && !device) words.insert(words.end(), {"--device", "cuda"});
  if (o.calibration_texts.empty() && o.calibration_preset.empty())
    words.insert(words.end(), {"--calibration-text", "TEXT"});
  return words;
}

std::string sbatch_line(const PlanRequest& request, const Plan& plan) {
  std::string text = fmt::format("sbatch {} slurm/quantize.sbatch", fmt::join(sbatch_options(request, plan), " "));
  for (const std::string& word : job_words(request)) text += " " + core::quote_for_shell(word);
  return text;
}

std::string plan_text(const PlanRequest& request, const Plan& plan) {
  const quant::Method& method = quant::find_method(request.options.parameters.method);
  const double rest = static_cast<double>(plan.rest_bytes), coded = static_cast<double>(plan.quantized_bits) / 8;
  std::string text =
      fmt::format("{}: {} blocks of {}, {:.4g} billion weights, {} in 16 bits\n{}, {}; {} rank{} of {}\n\nStored\n",
                  request.options.model, request.config.n_layers, request.config.model_type,
                  static_cast<double>(plan.original_bytes) / 2e9, size_text(plan.original_bytes), method.name(),
                  method.setting(request.options.parameters), request.n_ranks, request.n_ranks == 1 ? "" : "s",
                  request.rates.device);
  text += stored_table(plan, !request.options.rules.empty());
  if (const std::string sites = without_folding(request.options.parameters, request.config); !sites.empty())
    text += "  " + sites + "\n";
  text += fmt::format(
      "  all linears: {:.3f} true bits a weight (nominal {:.3f}), {}; {} {}; output {}, "
      "1/{:.1f} "
      "of the original\n",
      plan.true_bits(), plan.nominal_bits, size_text(coded),
      plan.kept_weights > 0 ? "embedding, head, norms and linears that are not quantized" : "embedding, head and norms",
      size_text(rest), size_text(coded + rest), static_cast<double>(plan.original_bytes) / (coded + rest));
  if (request.options.allocate)
    text += fmt::format(
        "  an estimate, as one setting for all has it: the run divides {:g} true bits among the linears (--allocate)\n",
        request.options.bits.value_or(plan.true_bits()));
  text += fmt::format("  Hessians on disk at a time: {} ({} blocks)\n\nTime\n",
                      size_text(plan.hessian_bytes * plan.windows.blocks), plan.windows.blocks);
  text += fmt::format("  {:<28}{:>14}{:>14}{:>16}\n", "stage", "work", "disk", "time");
  for (const PlannedStage& stage : plan.stages)
    text += fmt::format("  {:<28}{:>14}{:>14}{:>16}\n", stage.name, flops_text(stage.flops),
                        stage.bytes > 0 ? size_text(stage.bytes) : "-", core::format_duration(stage.seconds));
  text += fmt::format("  {:<28}{:>44}\n", "in all", core::format_duration(plan.total_seconds));
  text += fmt::format("  rates: {}\n\n", request.rates.origin);

  const sched::SimulationSummary& window = plan.windows.window;
  text += fmt::format(
      "Schedule (the coordinator itself, simulated)\n"
      "  {} window{} of {} blocks: {} tasks on {} rank{}, {} of them wide, on teams of at most {}\n"
      "  a window takes {} where no schedule can take less than {}: efficiency {:.1f} %\n"
      "  ({:.1f} % of what a division at no cost would give); {} ends last\n"
      "  a killed job loses the tasks in flight: at most {} of one window\n",
      plan.windows.count, plan.windows.count == 1 ? "" : "s", plan.windows.blocks, plan.windows.tasks, request.n_ranks,
      request.n_ranks == 1 ? "" : "s", window.n_wide, plan.windows.widest, core::format_duration(window.seconds),
      core::format_duration(window.bound), 100 * window.efficiency(),
      100 * window.even_share / std::max(window.seconds, 1e-12), window.last_task,
      core::format_duration(window.longest_run));
  if (plan.suggested_window > 0)
    text += fmt::format("  --hessian-window {} would be quicker, for {} of Hessians on disk\n", plan.suggested_window,
                        size_text(plan.hessian_bytes * plan.suggested_window));

  text += "\nMemory of a rank\n";
  const auto line = [&](const char* what, const core::MemoryPeak& peak) {
    if (peak.bytes > 0) text += fmt::format("  {:<28}{:>14}  {}\n", what, size_text(peak.bytes), peak.where);
  };
  if (request.text_bytes > 0) line("host, at the start", plan.tokenizing);
  line("host, calibrating", plan.calibrating);
  if (plan.gathering.bytes > plan.calibrating.bytes) line("host, one at a time", plan.gathering);
  line("host, quantizing", plan.quantizing);
  line("host, tuning", plan.tuning);
  line("GPU", plan.device);
  if (ranks_on_a_node(request) > 1)
    line(fmt::format("a node of {} ranks", ranks_on_a_node(request)).c_str(), plan.node(ranks_on_a_node(request)));
  text += fmt::format("  pages of the model's file beside it, while memory is free: up to {}\n",
                      size_text(plan.mapped_bytes));
  for (const std::string& refusal : plan.refusals) text += "  " + refusal + "\n";
  if (plan.refusals.empty()) text += "\nSubmit\n  " + sbatch_line(request, plan) + "\n";
  return text;
}

core::Json plan_json(const PlanRequest& request, const Plan& plan) {
  const auto peak_json = [](const core::MemoryPeak& peak) {
    return peak.bytes > 0 ? core::Json{{"bytes", peak.bytes}, {"where", peak.where}} : core::Json(nullptr);
  };
  core::Json linears = core::Json::array(), stages = core::Json::array();
  for (const PlannedLinear& linear : plan.linears)
    linears.push_back({{"role", linear.role},
                       {"site", linear.site},
                       {"example", linear.example},
                       {"out_features", linear.out_features},
                       {"in_features", linear.in_features},
                       {"count", linear.count},
                       {"quantized", linear.quantized},
                       {"setting", linear.setting},
                       {"bits_true", bits_a_weight(linear.stored.total(), linear.weights())},
                       {"stored_bits", linear.stored.total()},
                       {"index_bits", linear.stored.indices},
                       {"codebook_bits", linear.stored.codebooks},
                       {"scale_bits", linear.stored.scales},
                       {"permutation_bits", linear.stored.permutation}});
  for (const PlannedStage& stage : plan.stages)
    stages.push_back(
        {{"stage", stage.name}, {"flops", stage.flops}, {"disk_bytes", stage.bytes}, {"seconds", stage.seconds}});
  core::Json work = core::Json::object();
  for (const auto& [stage, counts] : plan.work)
    for (std::size_t i = 0; i < core::kCounted; ++i)
      if (const auto what = static_cast<core::Counted>(i); what != core::Counted::scheduling_bytes)
        work[stage][std::string(core::counted_name(what))] = counts[what];
  const sched::SimulationSummary& window = plan.windows.window;
  return {{"model", request.options.model},
          {"architecture", request.config.model_type},
          {"blocks", request.config.n_layers},
          {"parameters", run::run_parameters(request.options).json()},
          {"ranks", request.n_ranks},
          {"ranks_per_node", request.ranks_per_node},
          {"threads", request.threads},
          {"device", request.cuda ? "cuda" : "cpu"},
          {"bits_true", plan.true_bits()},
          {"bits_nominal", plan.nominal_bits},
          {"quantized_weights", plan.quantized_weights},
          {"quantized_bits", plan.quantized_bits},
          {"kept_weights", plan.kept_weights},
          {"rest_bytes", plan.rest_bytes},
          {"original_bytes", plan.original_bytes},
          {"output_bytes", plan.quantized_bits / 8 + plan.rest_bytes},
          {"hessian_bytes_a_block", plan.hessian_bytes},
          {"linears", std::move(linears)},
          {"stages", std::move(stages)},
          {"work", std::move(work)},
          {"total_seconds", plan.total_seconds},
          {"rates", rates_json(request.rates)},
          {"schedule",
           {{"windows", plan.windows.count},
            {"blocks_a_window", plan.windows.blocks},
            {"tasks_a_window", plan.windows.tasks},
            {"wide_tasks_a_window", window.n_wide},
            {"widest", plan.windows.widest},
            {"window_seconds", window.seconds},
            {"bound_seconds", window.bound},
            {"even_share_seconds", window.even_share},
            {"efficiency", window.efficiency()},
            {"busy", window.busy},
            {"last_task", window.last_task},
            {"longest_run_seconds", window.longest_run},
            {"suggested_window", plan.suggested_window > 0 ? core::Json(plan.suggested_window) : core::Json(nullptr)}}},
          {"memory",
           {{"host_tokenizing", peak_json(plan.tokenizing)},
            {"host_calibrating", peak_json(plan.calibrating)},
            {"host_gathering", peak_json(plan.gathering)},
            {"node", peak_json(plan.node(ranks_on_a_node(request)))},
            {"host_quantizing", peak_json(plan.quantizing)},
            {"host_tuning", peak_json(plan.tuning)},
            {"gpu", peak_json(plan.device)},
            {"mapped_bytes", plan.mapped_bytes}}},
          {"fits", plan.refusals.empty()},
          {"refusals", plan.refusals},
          {"sbatch", plan.refusals.empty() ? core::Json(sbatch_line(request, plan)) : core::Json(nullptr)}};
}

}  // namespace voronoi::planning
