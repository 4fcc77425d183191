#include <sys/resource.h>

#include "backend/placement.h"
#include "comm/agreement.h"
#include "core/error.h"
#include "core/log.h"
#include "core/whereabouts.h"
#include "jobs/commands.h"
#include "jobs/quantize_options.h"
#include "run/run.h"
#include "run/settings.h"
#include "stages/export.h"
#include "stages/inputs.h"
#include "stages/pipeline.h"
#include "validation/run_report.h"

namespace voronoi::jobs {
namespace {

core::LogLevel level_of(const std::string& name) {
  if (name == "debug") return core::LogLevel::debug;
  if (name == "warning") return core::LogLevel::warning;
  if (name == "error") return core::LogLevel::error;
  return core::LogLevel::info;
}

std::int64_t peak_memory_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

void print_summary(const run::Run& run) {
  const run::RunState& state = run.state;
  double error = 0;
  for (const auto& [name, layer] : state.layers) error += layer.relative_error;
  if (!state.layers.empty()) error /= static_cast<double>(state.layers.size());
  double seconds = 0;
  for (const auto& [stage, spent] : state.stage_seconds) seconds += spent;
  core::log_info(
      "{}: {} layers, {:.3f} true bits a weight (nominal {:.2f}), mean relative Hessian error {:.5f}, {} in all "
      "attempts",
      run.paths.root.string(), state.layers.size(), true_bits(state), nominal_bits(state), error,
      core::format_duration(seconds));
  for (const std::string& line : run::describe_failures(state)) core::log_warning("not done: {}", line);
}

}  // namespace

int quantize_main(const comm::Communicator& world, const Arguments& arguments) {
  run::Settings options;
  const CommandSpec command = quantize_command(options);
  bool help = false;
  comm::together(world, [&] {
    help = parse_or_help(world, command, arguments, true);
    if (help) return;
    if (std::vector<std::string> problems = run::check(options); !problems.empty()) throw core::ConfigError(problems);
  });
  if (help) return 0;
  core::configure_log(world.size() > 1 ? world.rank() : -1, level_of(options.log_level));

  std::unique_ptr<backend::Context> context;
  stages::Inputs inputs;
  comm::together(world, [&] {
    context = backend::make_context(options.device, options.threads, world);
    inputs = stages::open_inputs(options, *context);
  });
  run::Run run = run::open_run(world, options, inputs.identity);
  if (world.rank() == 0 && run.state.attempt > 1)
    core::log_info("{}: attempt {}, {} layers are done already", options.run, run.state.attempt,
                   run.state.layers.size());

  const stages::PipelineResult result = stages::run_pipeline(world, *context, options, inputs, run);
  const std::int64_t peak = world.all_max(peak_memory_bytes());
  if (!result.stopped) comm::on_root(world, [&] { stages::run_export_stage(run, inputs, options); });
  std::int64_t failed = 0;
  comm::on_root(world, [&] {
    run.append({{"type", "memory"}, {"peak_bytes", peak}});
    run.append({{"type", result.stopped ? "stopped" : "finished"}, {"time", core::unix_time()}});
    if (result.stopped) return;
    run.attempt->require_current();
    core::show_progress("quantization finished", true);
    print_summary(run);
    failed = run::failures(run.state).empty() ? 0 : 1;
    core::log_info("peak memory of a rank: {}", core::format_bytes(static_cast<double>(peak)));
    if (run::has_stage(options, "report"))
      core::log_info(
          "report: {}",
          validation::write_run_report(validation::make_run_report({run.paths}), run.paths.report()).string());
  });
  if (result.stopped) {
    if (world.rank() == 0) core::log_info("stopped on request; run the same command again to resume");
    return static_cast<int>(core::ExitCode::stopped);
  }
  return static_cast<int>(world.all_max(failed) == 0 ? core::ExitCode::ok : core::ExitCode::partial);
}

}  // namespace voronoi::jobs
