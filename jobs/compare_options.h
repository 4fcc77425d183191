// Options of `voronoi compare`, and the runs that they stand for.
#pragma once

#include <string>
#include <vector>

#include "jobs/command_line.h"
#include "jobs/eval_options.h"
#include "run/settings.h"

namespace voronoi::jobs {

inline constexpr const char* kNoPreset = "none";

struct CompareOptions {
  run::Settings shared;  ///< of all runs, and of the job: `run` is the directory of --out
  std::string methods, bits, preset = kNoPreset;
  std::vector<std::string> members;  ///< config files
  EvalOptions eval;                  ///< but what is shared
};

CommandSpec compare_command(CompareOptions& options);

/// The preset's methods at their bits, of these those that --methods and --bits name where they are given; without a
/// preset methods x bits; then the config files: each as `quantize` takes it, by its own arguments, in a directory of
/// its own under that of the job. `given`: what was given to compare. What is wrong is added to the problems, named by
/// the runs that it is wrong for.
std::vector<run::Settings> member_settings(const CompareOptions& options, const std::vector<run::GivenOption>& given,
                                           std::vector<std::string>& problems);

/// Options that a preset stands for where they are not given: `given` are those of an earlier start, `now` what the
/// command line and its config file say. To be parsed as an earlier start's.
std::vector<run::GivenOption> preset_options(const CompareOptions& now, const std::vector<run::GivenOption>& given);

/// Arguments of `eval` for these runs. `given`: as above.
std::vector<std::string> eval_arguments(const std::vector<run::GivenOption>& given,
                                        const std::vector<run::Settings>& members);

}  // namespace voronoi::jobs
