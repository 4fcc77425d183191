// Command line over config file over defaults; every problem of both is reported at once.
#pragma once

#include <string>
#include <vector>

#include "core/option.h"

namespace voronoi::jobs {

struct CommandSpec {
  std::string name, summary, usage;
  std::string positional;  ///< name of the option that takes arguments without a dash; empty: none
  std::vector<core::OptionSpec> options;
  std::string examples;
};

struct ParseResult {
  bool help = false;                  ///< --help was asked: nothing else was looked at
  std::vector<std::string> problems;  ///< one a line, as a person should read them
};

/// Assigns all values. Adds --help and, when `with_config_file`, --config FILE by itself.
ParseResult parse(const CommandSpec& command, const std::vector<std::string>& arguments, bool with_config_file);

std::string help_text(const CommandSpec& command, bool with_config_file);

}  // namespace voronoi::jobs
