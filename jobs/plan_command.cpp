#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

#include "core/error.h"
#include "core/option.h"
#include "core/output.h"
#include "jobs/commands.h"
#include "jobs/plan_options.h"
#include "jobs/quantize_options.h"
#include "planning/model_sizes.h"
#include "planning/plan.h"
#include "run/settings.h"

namespace voronoi::jobs {

int plan_main(const comm::Communicator& world, const Arguments& arguments) {
  run::Settings options;
  planning::Resources resources;
  bool json = false;
  CommandSpec command = quantize_command(options);
  command.name = "plan";
  command.summary =
      "What a quantization run would store, hold in memory, compute and take, and the sbatch command for it. Reads the "
      "model's configuration only and computes nothing of it.";
  command.usage =
      "voronoi plan --model DIR|config.json|NAME [quantize's options] [--ranks N] [--gpu-memory SIZE] [--probe | "
      "--rates FILE] "
      "[--json]";
  const std::vector<core::OptionSpec> of_quantize = command.options;
  for (core::OptionSpec& option : command.options)
    if (option.name == "model")
      option.help = fmt::format("Hugging Face directory or its config.json, GGUF file, or one of {}",
                                fmt::join(planning::known_model_names(), ", "));
  command.options.push_back(
      core::integer_option("ranks", "MPI ranks; on GPUs, one a GPU", resources.ranks, 1, 1 << 20));
  command.options.push_back(core::integer_option("ranks-per-node",
                                                 "ranks of a node; 0: 8 on GPUs, else the cores here by the threads",
                                                 resources.ranks_per_node, 0, 1024));
  command.options.push_back(core::switch_option(
      "probe", "time the kernels on this machine for some seconds and predict by that", resources.probe));
  for (core::OptionSpec& option : memory_and_rates_options(resources)) command.options.push_back(std::move(option));
  command.options.push_back(core::switch_option("json", "print JSON", json));
  command.examples =
      "  # Llama-3.1-405B at about 2 bits on 8 nodes of 8 H100\n"
      "  voronoi plan --model llama-3.1-405b --bits 2 --device cuda --ranks 64 --gpu-memory 80GiB\n"
      "  # a model at hand, on this machine's CPU, with rates measured here\n"
      "  voronoi plan --model SmolLM2-135M --config configs/voronoi-2bit.cfg --probe\n"
      "  # for scripts\n"
      "  voronoi plan --model llama-2-7b --vector-length 6 --centroids 4096 --json\n"
      "Exit codes: 0 it fits, 2 usage or a job that cannot fit, 3 bad data, 5 system.\n";
  const ParseResult parsed = parse(command, arguments, true);
  if (help_or_problems(world, command, parsed, true)) return 0;
  complete(parsed.given, options);
  std::vector<std::string> problems;
  if (options.model.empty())
    problems.push_back(fmt::format("--model: is missing; give a directory, a config.json or one of {}",
                                   fmt::join(planning::known_model_names(), ", ")));
  for (std::string& problem : run::check_bits(options)) problems.push_back(std::move(problem));
  for (std::string& problem : run::check_allocate(options)) problems.push_back(std::move(problem));
  for (std::string& problem : run::run_parameters(options).check()) problems.push_back(std::move(problem));
  resources.cuda = resources.gpu_memory > 0;
  const planning::PlanRequest request =
      prepare_plan(options, options_to_submit(of_quantize, parsed.given), resources, std::move(problems));
  const planning::Plan plan = planning::make_plan(request);
  fmt::print("{}", json ? planning::plan_json(request, plan).dump() + "\n" : planning::plan_text(request, plan));
  core::flush_output();
  if (!plan.refusals.empty()) throw core::ConfigError(plan.refusals);
  return 0;
}

}  // namespace voronoi::jobs
