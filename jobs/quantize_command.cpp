#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/cores.h"
#include "backend/machine.h"
#include "backend/placement.h"
#include "comm/agreement.h"
#include "core/error.h"
#include "core/log.h"
#include "core/option.h"
#include "core/output.h"
#include "core/whereabouts.h"
#include "jobs/commands.h"
#include "jobs/plan_options.h"
#include "jobs/quantize_options.h"
#include "model/corpus.h"
#include "planning/plan.h"
#include "planning/request.h"
#include "run/resume.h"
#include "run/run.h"
#include "run/settings.h"
#include "stages/inputs.h"
#include "stages/outlook.h"
#include "stages/stage.h"
#include "stages/work.h"

namespace voronoi::jobs {
namespace {

void print_summary(const run::Run& run) {
  const run::RunState& state = run.state;
  double error = 0;
  for (const auto& [name, layer] : state.layers) error += layer.relative_error;
  if (!state.layers.empty()) error /= static_cast<double>(state.layers.size());
  double seconds = 0;
  for (const auto& [stage, spent] : state.stage_seconds) seconds += spent;
  core::log_info(
      "{}: {} layers, {:.3f} true bits a weight (nominal {:.2f}), mean relative Hessian error {:.5f}, {} in all "
      "starts",
      run.paths.root.string(), state.layers.size(), true_bits(state), nominal_bits(state), error,
      core::format_duration(seconds));
  for (const std::string& line : run::describe_failures(state)) core::log_warning("not done: {}", line);
}

/// Of this start, on this machine. `settings`: as after apply_sets.
planning::PlanRequest request_here(const comm::Communicator& world, const backend::Context& context,
                                   const run::Settings& settings, const std::vector<run::GivenOption>& given,
                                   const stages::Inputs& inputs, std::int64_t program_bytes, int ranks_here) {
  planning::Resources resources;
  resources.ranks = world.size();
  resources.ranks_per_node = ranks_here;
  resources.threads = context.n_threads();
  resources.cuda = context.device() == backend::Device::cuda;
  resources.gpu_memory = context.memory().facts(context.exec()).total_bytes;
  resources.node_memory = std::int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE);
  resources.program_bytes = program_bytes;
  return planning::make_request(settings, given, inputs.model->config(), resources);
}

/// What --dry-run does in place of the run; rank 0's work. Throws ConfigError with all that is in the way.
/// `given`: options that a job would take.
void tell_outlook(const comm::Communicator& world, const backend::Context& context, run::Settings settings,
                  const std::vector<run::GivenOption>& given, const stages::Inputs& inputs, std::int64_t program_bytes,
                  int ranks_here) {
  const run::RunState state = stages::existing_state(settings);
  stages::apply_sets(settings, state);
  const planning::PlanRequest request =
      request_here(world, context, settings, given, inputs, program_bytes, ranks_here);
  const planning::Plan plan = planning::make_plan(request);
  const stages::Outlook outlook = stages::look_ahead(settings, inputs, state, plan);
  fmt::print("{}{}", planning::plan_text(request, plan), stages::outlook_text(settings, outlook));
  core::flush_output();
  std::vector<std::string> problems = plan.refusals;
  problems.insert(problems.end(), outlook.problems.begin(), outlook.problems.end());
  if (!problems.empty()) throw core::ConfigError(problems);
}

/// Weights that are trained take more memory than all else that a run does, and come last: whether there is as much is
/// told before any work. Rank 0's; throws ConfigError.
void refuse_too_large(const comm::Communicator& world, const backend::Context& context, run::Settings settings,
                      const std::vector<run::GivenOption>& given, const stages::Inputs& inputs,
                      std::int64_t program_bytes, int ranks_here) {
  stages::apply_sets(settings, stages::existing_state(settings));
  const planning::Plan plan =
      planning::make_plan(request_here(world, context, settings, given, inputs, program_bytes, ranks_here));
  if (!plan.refusals.empty()) throw core::ConfigError(plan.refusals);
}

/// In the rank's own log: what to look at when ranks are slow.
void tell_cores(int n_threads) {
  const backend::CoreClaim claim = backend::claim_of_this_process();
  core::log_debug("{}: {} thread(s), allowed on cores {}{}", core::host_name(), n_threads, fmt::join(claim.cores, ","),
                  claim.quota > 0 ? fmt::format(", {:g} of them by the quota of {}", claim.quota, claim.group) : "");
}

}  // namespace

int quantize_main(const comm::Communicator& world, const Arguments& arguments) {
  run::Settings settings;
  CommandSpec command = quantize_command(settings);
  bool dry_run = false;
  command.options.push_back(core::switch_option(
      "dry-run", "open and check everything, print the plan of it and what the start would do, and write nothing",
      dry_run));
  bool help = false;
  comm::together(world, [&] {
    const ParseResult parsed = parse(command, arguments, true, options_of_run(arguments));
    help = help_or_problems(world, command, parsed, true);
    if (help) return;
    for (const run::GivenOption& option : parsed.given)
      if (option.name != "run" && option.name != "set" && option.name != "dry-run") settings.given.push_back(option);
    complete(parsed.given, settings);
    std::vector<std::string> problems = run::check(settings);
    for (std::string& problem : stages::check_stages(settings)) problems.push_back(std::move(problem));
    if (!problems.empty()) throw core::ConfigError(problems);
  });
  if (help) return 0;
  core::configure_log(world.size() > 1 ? world.rank() : -1, log_level(settings.log_level));

  const std::int64_t program_bytes = planning::resident_bytes();
  std::unique_ptr<backend::Context> context;
  stages::Inputs inputs;
  comm::together(world, [&] {
    context = backend::make_context(settings.device, settings.threads, world);
    for (const auto* texts : {&settings.calibration_texts, &settings.tune_texts, &settings.validate_texts})
      model::require_files(*texts, world.size());
    inputs = stages::open_inputs(settings, *context);
  });
  const std::vector<std::string> phases = run::tune_phases(settings);
  const bool trains_weights = std::find(phases.begin(), phases.end(), "weights") != phases.end();
  if (dry_run || trains_weights) {
    const comm::LocalRanks here = comm::local_ranks(world);
    comm::on_root(world, [&] {
      const std::vector<run::GivenOption> given = options_to_submit(command.options, settings.given);
      if (dry_run)
        tell_outlook(world, *context, settings, given, inputs, program_bytes, here.size);
      else
        refuse_too_large(world, *context, settings, given, inputs, program_bytes, here.size);
    });
  }
  if (dry_run) return 0;
  run::Run run = run::open_run(world, settings, inputs.identity, backend::machine_facts(*context, world));
  tell_cores(context->n_threads());
  if (world.rank() == 0 && run.state.start > 1)
    core::log_info("{}: start {}, {} layers are done already", settings.run, run.state.start, run.state.layers.size());

  stages::Work work(world, *context, settings, inputs, run);
  stages::run_stages(work);
  const bool failed = run::end_start(world, run, work.stopped);
  if (work.stopped) {
    if (world.rank() == 0)
      core::log_info("stopped on request; run the same command again to resume, or: {}",
                     run::describe_resume(run.paths, run.state));
    return static_cast<int>(core::ExitCode::stopped);
  }
  const std::int64_t peak = work.peak_memory();
  if (world.rank() == 0) {
    core::show_progress("quantization finished", true);
    print_summary(run);
    core::log_info("peak memory of a rank: {}", core::format_bytes(static_cast<double>(peak)));
  }
  return static_cast<int>(failed ? core::ExitCode::partial : core::ExitCode::ok);
}

}  // namespace voronoi::jobs
