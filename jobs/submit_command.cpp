#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/option.h"
#include "core/output.h"
#include "core/version.h"
#include "jobs/batch_job.h"
#include "jobs/commands.h"
#include "jobs/plan_options.h"
#include "jobs/quantize_options.h"
#include "planning/plan.h"
#include "run/heartbeat.h"
#include "stages/outlook.h"
#include "stages/stage.h"

namespace voronoi::jobs {
namespace {

namespace fs = std::filesystem;

/// Options of sbatch that may stand among those of quantize; any others come before "--".
constexpr std::pair<const char*, const char*> kSbatchOptions[] = {
    {"nodes", "nodes [1]"},
    {"ntasks-per-node", "ranks of a node [one a GPU; 1 without]"},
    {"cpus-per-task", "cores a rank [8 on GPUs, else the cores of this machine by the ranks of a node]"},
    {"gpus-per-node", "GPUs a node"},
    {"gres", "the same by name, gpu:8"},
    {"mem", "memory a node [predicted, with a margin]"},
    {"time", "time limit [predicted, with a margin]; a job that reaches it goes on in another"},
    {"partition", "partition"},
    {"account", "account"},
    {"qos", "quality of service"},
    {"constraint", "features of the nodes"},
    {"exclude", "nodes to leave out"},
    {"dependency", "jobs to wait for"},
    {"job-name", "name [voronoi]"},
    {"output", "log [voronoi-%j.log]"},
    {"mail-type", "mail when"},
    {"mail-user", "mail to whom"},
};

/// The machine that the options of sbatch describe.
void describe_machine(const SbatchWords& given, const run::Settings& settings, planning::Resources& resources) {
  const int gpus = std::max(given.number("gpus-per-node"), given.number("gres"));
  resources.cuda = gpus > 0 || given.has("gpus", 'G') || resources.gpu_memory > 0;
  const bool cuda = settings.device == "cuda" || (settings.device == "auto" && resources.cuda);
  const int nodes = std::max(1, given.number("nodes", 'N')), tasks = given.number("ntasks", 'n');
  const int told = given.number("ntasks-per-node");
  resources.ranks_per_node = told > 0 ? told : tasks > 0 ? (tasks + nodes - 1) / nodes : gpus > 0 ? gpus : cuda ? 8 : 1;
  resources.ranks = tasks > 0 ? tasks : nodes * resources.ranks_per_node;
  resources.threads = given.number("cpus-per-task", 'c');
}

/// Those that the plan chooses and the user does not.
std::vector<std::string> still_to_choose(const std::vector<std::string>& planned, const SbatchWords& given) {
  const auto is_given = [&](const std::string& option) {
    const std::string name = option.substr(2, option.find('=') - 2);
    if (name == "nodes") return given.has(name, 'N');
    if (name == "ntasks-per-node") return given.has(name) || given.has("ntasks", 'n');
    if (name == "gpus-per-node") return given.has(name) || given.has("gres") || given.has("gpus", 'G');
    if (name == "cpus-per-task") return given.has(name, 'c');
    if (name == "mem") return given.has(name) || given.has("mem-per-cpu") || given.has("mem-per-gpu");
    return given.has(name, 't');  // time
  };
  std::vector<std::string> options;
  std::copy_if(planned.begin(), planned.end(), std::back_inserter(options),
               [&](const std::string& option) { return !is_given(option); });
  return options;
}

/// The job starts where it was submitted; its script may be submitted again from elsewhere.
void make_absolute(std::vector<run::GivenOption>& options) {
  for (run::GivenOption& option : options)
    if (option.path) option.value = fs::absolute(option.value).lexically_normal().string();
}

/// What the job would find wrong, as far as a login node should look.
std::vector<std::string> problems_of(const run::Settings& settings) {
  std::vector<std::string> problems = run::check(settings);
  for (std::string& problem : stages::check_stages(settings)) problems.push_back(std::move(problem));
  if (!problems.empty()) return problems;
  const auto require = [&](const char* option, const std::string& path) {
    if (std::error_code error; !path.empty() && !fs::exists(path, error))
      problems.push_back(fmt::format("--{}: there is no file or directory '{}'", option, path));
  };
  require("model", settings.model);
  require("tokenizer", settings.tokenizer);
  require("hessians-from", settings.hessians_from);
  for (const std::string& text : settings.calibration_texts) require("calibration-text", text);
  const store::RunPaths paths{settings.run};
  for (std::string& problem : store::run_directory_problems(paths)) problems.push_back(std::move(problem));
  if (!problems.empty()) return problems;
  const run::RunState state = stages::existing_state(settings);
  for (std::string& problem : stages::unmet_needs(settings, state)) problems.push_back(std::move(problem));
  if (std::optional<std::string> problem = stages::run_at_work(settings, state))
    problems.push_back(*std::move(problem));
  return problems;
}

/// MODEL RUN, or RUN, in front of the options.
Arguments name_places(const Arguments& arguments) {
  std::size_t n = 0;
  while (n < arguments.size() && n < 2 && !arguments[n].starts_with('-')) ++n;
  Arguments named;
  if (n == 2) named = {"--model", arguments[0], "--run", arguments[1]};
  if (n == 1) named = {"--run", arguments[0]};
  named.insert(named.end(), arguments.begin() + static_cast<std::ptrdiff_t>(n), arguments.end());
  return named;
}

CommandSpec submit_command(run::Settings& settings, planning::Resources& resources, std::vector<std::string>& sbatch,
                           bool& print) {
  CommandSpec command = quantize_command(settings);
  command.name = "submit";
  command.summary =
      "Submits a quantization run to Slurm: writes the batch script, with time, memory and tasks as plan predicts "
      "them, "
      "to RUN/logs/submit.sbatch and gives it to sbatch. RUN alone goes on with the run that is there.";
  command.usage = "voronoi submit [any options of sbatch --] [MODEL] RUN [quantize's options] [--print]";
  for (const auto& [name, help] : kSbatchOptions)
    command.options.push_back({name, "VALUE", fmt::format("of sbatch: {}", help),
                               [&sbatch, name = std::string(name)](const std::string& value) -> std::string {
                                 sbatch.push_back("--" + name + "=" + value);
                                 return {};
                               },
                               false});
  for (core::OptionSpec& option : memory_and_rates_options(resources)) command.options.push_back(std::move(option));
  command.options.push_back(core::switch_option("print", "print the script; submit and write nothing", print));
  command.options.push_back(core::switch_option("dry-run", "the same", print));
  command.examples =
      "  # four nodes of eight GPUs, limits by prediction\n"
      "  voronoi submit Llama-3.1-70B runs/70b --bits 2 --calibration-text c4.jsonl --nodes 4 --gpus-per-node 8\n"
      "  # any options of sbatch, in its own words, before --\n"
      "  voronoi submit -N 4 --gpus-per-node=8 -A lab --exclusive -- Llama-3.1-70B runs/70b --bits 2 "
      "--calibration-text "
      "c4.jsonl\n"
      "  # what would be submitted\n"
      "  voronoi submit SmolLM2-135M runs/2bit --calibration-text wiki.txt --partition cpu --print\n"
      "  # goes on with a run from its directory alone\n"
      "  voronoi submit runs/70b --nodes 2 --gpus-per-node 8\n"
      "Exit codes: 0 submitted, 2 usage or a job that cannot fit, 3 bad data, 5 system: no sbatch, or it refused.\n";
  return command;
}

}  // namespace

int submit_main(const comm::Communicator& world, const Arguments& arguments) {
  const auto divider = std::find(arguments.begin(), arguments.end(), "--");
  Arguments ours = divider == arguments.end() ? arguments : Arguments(divider + 1, arguments.end());
  std::vector<std::string> sbatch(divider == arguments.end() ? arguments.end() : arguments.begin(), divider);
  // They are no options of sbatch that mean anything here.
  for (const char* own : {"--help", "--print", "--dry-run"})
    if (std::erase(sbatch, own) > 0) ours.emplace_back(own);
  ours = name_places(ours);

  run::Settings settings;
  planning::Resources resources;
  bool print = false;
  const CommandSpec command = submit_command(settings, resources, sbatch, print);
  const ParseResult parsed = parse(command, ours, true, options_of_run(ours));
  if (help_or_problems(world, command, parsed, true)) return 0;
  complete(parsed.given, settings);
  const SbatchWords given(sbatch);
  describe_machine(given, settings, resources);
  run::Settings of_job;
  std::vector<run::GivenOption> options = options_to_submit(quantize_command(of_job).options, parsed.given);
  make_absolute(options);
  const planning::PlanRequest request = prepare_plan(settings, options, resources, problems_of(settings));
  const planning::Plan plan = planning::make_plan(request);
  if (!plan.refusals.empty()) throw core::ConfigError(plan.refusals);

  const BatchScripts scripts = find_batch_scripts();
  const store::RunPaths paths{fs::absolute(settings.run).lexically_normal()};
  BatchJob job;
  job.note = fmt::format("Written by voronoi {} submit; sbatch takes it again. Predicted to take {}.",
                         core::program_version(), core::format_duration(plan.total_seconds));
  job.planned = still_to_choose(planning::sbatch_options(request, plan), given);
  job.given = given.words();
  job.words = planning::job_words(request);
  job.words[0] = fs::absolute(settings.model).lexically_normal().string();
  job.words[1] = paths.root.string();
  job.root = scripts.root.string();
  // In a container the program is another; an environment that names one wins, as in the batch scripts.
  if (std::getenv("VORONOI_LAUNCH_PREFIX") == nullptr && std::getenv("VORONOI") == nullptr)
    job.program = program_file().string();
  const std::string script = batch_script(core::read_text_file(scripts.folder / "quantize.sbatch"), job);
  if (print) {
    fmt::print("{}", script);
    core::flush_output();
    return 0;
  }
  const fs::path file = paths.logs() / "submit.sbatch";
  std::error_code error;
  fs::create_directories(paths.logs(), error);
  if (error) throw core::system_error(paths.logs(), "create the directory", error.value());
  core::write_file_shared(file, script);
  const std::string number = submit_script(file);
  fmt::print("job      {}\nscript   {}\nwatch    voronoi status {}\n", number, file.string(),
             core::quote_for_shell(paths.root.string()));
  core::flush_output();
  return 0;
}

}  // namespace voronoi::jobs
