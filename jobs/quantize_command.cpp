#include <sys/resource.h>

#include "core/error.h"
#include "core/log.h"
#include "jobs/commands.h"
#include "jobs/pipeline.h"
#include "jobs/process.h"
#include "jobs/run_export.h"
#include "jobs/run_report.h"

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

void print_summary(const Run& run) {
  const RunState& state = run.state;
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
  for (const std::string& line : describe_failures(state)) core::log_warning("not done: {}", line);
}

}  // namespace

int quantize_main(const comm::Communicator& world, const Arguments& arguments) {
  QuantizeOptions options;
  const CommandSpec command = quantize_command(options);
  bool help = false;
  together(world, [&] {
    help = parse_or_help(world, command, arguments, true);
    if (help) return;
    if (std::vector<std::string> problems = check(options); !problems.empty()) throw core::ConfigError(problems);
  });
  if (help) return 0;
  core::configure_log(world.size() > 1 ? world.rank() : -1, level_of(options.log_level));

  std::unique_ptr<backend::Context> context;
  Inputs inputs;
  together(world, [&] {
    context = make_context(options.device, options.threads, world);
    inputs = open_inputs(options, *context);
  });
  Run run = open_run(world, options, inputs);
  if (world.rank() == 0 && run.state.attempt > 1)
    core::log_info("{}: attempt {}, {} layers are done already", options.run, run.state.attempt,
                   run.state.layers.size());

  const PipelineResult result = run_pipeline(world, *context, options, inputs, run);
  const std::int64_t peak = world.all_max(peak_memory_bytes());
  if (!result.stopped) on_root(world, [&] { run_export_stage(run, inputs, options); });
  std::int64_t failed = 0;
  on_root(world, [&] {
    run.append({{"type", "memory"}, {"peak_bytes", peak}});
    run.append({{"type", result.stopped ? "stopped" : "finished"}, {"time", unix_time()}});
    if (result.stopped) return;
    run.attempt->require_current();
    core::show_progress("quantization finished", true);
    print_summary(run);
    failed = failures(run.state).empty() ? 0 : 1;
    core::log_info("peak memory of a rank: {}", core::format_bytes(static_cast<double>(peak)));
    if (has_stage(options, "report"))
      core::log_info("report: {}", write_run_report(make_run_report({run.paths}), run.paths.report()).string());
  });
  if (result.stopped) {
    if (world.rank() == 0) core::log_info("stopped on request; run the same command again to resume");
    return static_cast<int>(core::ExitCode::stopped);
  }
  return static_cast<int>(world.all_max(failed) == 0 ? core::ExitCode::ok : core::ExitCode::partial);
}

}  // namespace voronoi::jobs
