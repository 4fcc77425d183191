#include "run/resume.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/error.h"
#include "core/option.h"

namespace voronoi::run {
namespace {

bool knows_options(const RunState& state) { return state.last_start && !state.last_start->options.empty(); }

}  // namespace

std::vector<GivenOption> resume_options(const store::RunPaths& paths, const RunState& state) {
  if (!knows_options(state))
    throw core::ConfigError(paths.root.string() +
                            ": its journal does not tell the options it was started with (a version before this one "
                            "started it, or none has); give the whole command, with --model and --calibration-text");
  std::vector<GivenOption> options = state.last_start->options;
  const std::filesystem::path directory = state.last_start->directory;
  for (GivenOption& option : options)
    if (option.path) option.value = (directory / option.value).lexically_normal().string();
  return options;
}

std::string describe_resume(const store::RunPaths& paths, const RunState& state) {
  if (!knows_options(state)) return "run the same quantize command again";
  const std::int64_t ranks = state.last_start->ranks;
  const bool compares = state.last_start->command == kCompare;
  return fmt::format("{}voronoi {} {}", ranks > 1 ? fmt::format("mpirun -n {} ", ranks) : "",
                     compares ? "compare --out" : "quantize --run",
                     core::quote_for_shell(std::filesystem::absolute(paths.root).lexically_normal().string()));
}

}  // namespace voronoi::run
