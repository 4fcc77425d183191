#include "jobs/commands.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/log.h"
#include "core/option.h"

namespace voronoi::jobs {

const std::vector<Command>& commands() {
  static const std::vector<Command> table{
      {"plan", "bits, memory, time and sbatch command of a run before it is made", Ranks::one, plan_main},
      {"quantize", "calibrate and quantize a model into a run directory, or resume it", Ranks::many, quantize_main,
       true},
      {"compare", "several methods at several bits on one calibration, as one job with a table", Ranks::many,
       compare_main, true},
      {"submit", "write the batch script of a run, with limits by prediction, and submit it to Slurm", Ranks::one,
       submit_main},
      {"eval", "perplexity and questions of a model, a run or a VPTQ checkpoint", Ranks::many, eval_main, true},
      {"score", "log-likelihoods of continuations, for lm-evaluation-harness and others", Ranks::many, score_main,
       true},
      {"generate", "continue a text with a model, a run or a VPTQ checkpoint", Ranks::one, generate_main},
      {"status", "progress of a live or dead run, or of many", Ranks::one, status_main},
      {"inspect", "describe any file or directory that voronoi reads or writes", Ranks::one, inspect_main},
      {"export", "write a run as a checkpoint in VPTQ's public format", Ranks::as_launched, export_main},
      {"verify", "read a run or a checkpoint again, check every sum, decode every layer", Ranks::as_launched,
       verify_main},
      {"report", "figures and pictures of one or many runs on a page, with Markdown and JSON", Ranks::one, report_main},
  };
  return table;
}

bool help_or_problems(const comm::Communicator& world, const CommandSpec& command, const ParseResult& result,
                      bool with_config_file, const std::vector<std::string>& further_problems) {
  if (result.help) {
    if (world.rank() == 0) fmt::print("{}", help_text(command, with_config_file));
    return true;
  }
  // Before the problems are told.
  core::set_log_format(result.log_format == "json" ? core::LogFormat::json : core::LogFormat::text);
  std::vector<std::string> problems = result.problems;
  problems.insert(problems.end(), further_problems.begin(), further_problems.end());
  if (!problems.empty()) throw core::ConfigError(problems);
  return false;
}

bool parse_or_help(const comm::Communicator& world, const CommandSpec& command, const Arguments& arguments,
                   bool with_config_file, const std::vector<std::string>& further_problems) {
  return help_or_problems(world, command, parse(command, arguments, with_config_file), with_config_file,
                          further_problems);
}

}  // namespace voronoi::jobs
