// Command line over config file over defaults; every problem of both is reported at once.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace voronoi::jobs {

/// One option of a command. The same names stand in config files ("vector-length = 4").
struct OptionSpec {
  std::string name;
  std::string argument;  ///< shown in --help ("DIR"); empty: a switch without argument
  std::string help;
  /// Takes one value in; returns a problem ("must be ..."), or an empty string.
  std::function<std::string(const std::string&)> assign;
  bool repeatable = false;
};

// Assignments with their checks; `target` must outlive parsing.
OptionSpec text_option(std::string name, std::string argument, std::string help, std::string& target);
OptionSpec list_option(std::string name, std::string argument, std::string help, std::vector<std::string>& target);
OptionSpec integer_option(std::string name, std::string help, std::int64_t& target, std::int64_t least,
                          std::int64_t most);
OptionSpec integer_option(std::string name, std::string help, int& target, int least, int most);
OptionSpec number_option(std::string name, std::string help, double& target, double least, double most);
OptionSpec choice_option(std::string name, std::string help, std::string& target, std::vector<std::string> choices);
OptionSpec switch_option(std::string name, std::string help, bool& target);

struct CommandSpec {
  std::string name, summary, usage;
  std::string positional;  ///< name of the option that takes arguments without a dash; empty: none
  std::vector<OptionSpec> options;
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
