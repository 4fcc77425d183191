// Command line over config file over defaults; every problem of both is reported at once.
#pragma once

#include <string>
#include <vector>

#include "core/option.h"
#include "run/records.h"

namespace voronoi::jobs {

struct CommandSpec {
  std::string name, summary, usage;
  std::string positional;  ///< name of the option that takes arguments without a dash; empty: none
  std::vector<core::OptionSpec> options;
  std::string examples;
};

struct ParseResult {
  bool help = false;                    ///< --help was asked: nothing else was looked at
  std::vector<std::string> problems;    ///< one a line, as a person should read them
  std::vector<run::GivenOption> given;  ///< all that were assigned, those of `before` included
  std::string log_format = "text";      ///< or "json": --log-format
};

/// The option that a table [[rules]] of a config file stands for: each of them is one value, "PATTERN NAME=VALUE ...".
inline constexpr const char* kRuleOption = "rule";

/// Assigns all values. Adds --help, --log-format and, when `with_config_file`, --config FILE by itself. `before`:
/// options that were given to an earlier start; what is given now takes their place.
ParseResult parse(const CommandSpec& command, const std::vector<std::string>& arguments, bool with_config_file,
                  const std::vector<run::GivenOption>& before = {});

/// --original, of commands that take a run in place of a model.
core::OptionSpec original_option(std::string& target);

std::string help_text(const CommandSpec& command, bool with_config_file);

}  // namespace voronoi::jobs
