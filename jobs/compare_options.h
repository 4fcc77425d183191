// Options of `voronoi compare`, and the runs that they stand for.
#pragma once

#include <string>
#include <vector>

#include "jobs/command_line.h"
#include "jobs/eval_options.h"
#include "run/settings.h"

namespace voronoi::jobs {

struct CompareOptions {
  run::Settings shared;  ///< of all runs, and of the job: `run` is the directory of --out
  std::string methods, bits;
  std::vector<std::string> members;  ///< config files
  EvalOptions eval;                  ///< but what is shared
};

CommandSpec compare_command(CompareOptions& options);

/// Methods x bits, then the config files: each as `quantize` takes it, by its own arguments, in a directory of its own
/// under that of the job. `given`: what was given to compare. What is wrong is added to the problems, named by the runs
/// that it is wrong for.
std::vector<run::Settings> member_settings(const CompareOptions& options, const std::vector<run::GivenOption>& given,
                                           std::vector<std::string>& problems);

/// Arguments of `eval` for these runs. `given`: as above.
std::vector<std::string> eval_arguments(const std::vector<run::GivenOption>& given,
                                        const std::vector<run::Settings>& members);

}  // namespace voronoi::jobs
