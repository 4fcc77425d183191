// A named setting with its help and its check: an option of a command, a key of a config file, a parameter of a method.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace voronoi::core {

/// The same names stand on the command line ("--vector-length 4") and in config files ("vector-length = 4").
struct OptionSpec {
  std::string name;
  std::string argument;  ///< shown in --help ("DIR"); empty: a switch without argument
  std::string help;
  /// Takes one value in; returns a problem ("must be ..."), or an empty string.
  std::function<std::string(const std::string&)> assign;
  bool repeatable = false;
  bool path = false;  ///< the value is a path, relative to the working directory
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
/// The same option, whose value is a path.
OptionSpec as_path(OptionSpec option);

/// One word of a POSIX shell: as it is where that is plain, else in quotes.
std::string quote_for_shell(const std::string& text);

}  // namespace voronoi::core
