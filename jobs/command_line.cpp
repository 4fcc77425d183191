#include "jobs/command_line.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <charconv>
#include <cmath>
#include <fstream>
#include <set>

namespace voronoi::jobs {
namespace {

namespace po = boost::program_options;
using Values = std::vector<std::string>;

/// Takes the arguments without a dash of commands that want none, so that they are reported with all other problems.
constexpr const char* kStray = "stray-argument";

template <class T>
bool parse_number(const std::string& text, T& value) {
  const char* end = text.data() + text.size();
  const auto [position, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && position == end;
}

template <class T>
OptionSpec make_integer(std::string name, std::string help, T& target, T least, T most) {
  help += fmt::format(" [{}]", target);
  return {std::move(name), "N", std::move(help),
          [&target, least, most](const std::string& text) -> std::string {
            T value{};
            if (!parse_number(text, value) || value < least || value > most)
              return fmt::format("must be an integer from {} to {}, not '{}'", least, most, text);
            target = value;
            return {};
          },
          false};
}

po::options_description describe(const CommandSpec& command, bool with_config_file) {
  po::options_description description("Options", 118, 60);
  auto add = description.add_options();
  for (const OptionSpec& option : command.options) {
    if (option.argument.empty())
      add(option.name.c_str(), po::value<Values>()->implicit_value(Values{"true"}, "")->zero_tokens(),
          option.help.c_str());
    else
      add(option.name.c_str(), po::value<Values>()->value_name(option.argument)->composing(), option.help.c_str());
  }
  if (with_config_file)
    add("config", po::value<Values>()->value_name("FILE"),
        "read options from FILE, one NAME = VALUE a line; the command line wins");
  add("help", "show this text");
  return description;
}

/// Assigns the values of one source; names already given by a stronger source are left alone.
void assign_all(const CommandSpec& command, const std::vector<po::option>& options, const std::string& where, bool file,
                std::set<std::string>& taken, std::vector<std::string>& problems) {
  std::set<std::string> here;
  for (const po::option& option : options) {
    const auto shown = [&](const std::string& name) { return where + (file ? name : "--" + name); };
    if (option.unregistered) {
      problems.push_back(shown(option.string_key) + (file ? ": unknown key" : ": unknown option") + "; voronoi " +
                         command.name + " --help lists them");
      continue;
    }
    const auto spec = std::find_if(command.options.begin(), command.options.end(),
                                   [&](const OptionSpec& candidate) { return candidate.name == option.string_key; });
    if (spec == command.options.end()) continue;  // --config, --help
    if (taken.contains(spec->name)) continue;
    if (!here.insert(spec->name).second && !spec->repeatable) {
      problems.push_back(shown(spec->name) + ": given more than once");
      continue;
    }
    const Values values = option.value.empty() ? Values{"true"} : Values(option.value.begin(), option.value.end());
    for (const std::string& value : values)
      if (std::string problem = spec->assign(value); !problem.empty())
        problems.push_back(shown(spec->name) + ": " + problem);
  }
  taken.insert(here.begin(), here.end());
}

}  // namespace

OptionSpec text_option(std::string name, std::string argument, std::string help, std::string& target) {
  return {std::move(name), std::move(argument), std::move(help),
          [&target](const std::string& text) -> std::string {
            if (text.empty()) return "must not be empty";
            target = text;
            return {};
          },
          false};
}

OptionSpec list_option(std::string name, std::string argument, std::string help, std::vector<std::string>& target) {
  return {std::move(name), std::move(argument), std::move(help) + " (may be given several times)",
          [&target](const std::string& text) -> std::string {
            if (text.empty()) return "must not be empty";
            target.push_back(text);
            return {};
          },
          true};
}

OptionSpec integer_option(std::string name, std::string help, std::int64_t& target, std::int64_t least,
                          std::int64_t most) {
  return make_integer(std::move(name), std::move(help), target, least, most);
}

OptionSpec integer_option(std::string name, std::string help, int& target, int least, int most) {
  return make_integer(std::move(name), std::move(help), target, least, most);
}

OptionSpec number_option(std::string name, std::string help, double& target, double least, double most) {
  help += fmt::format(" [{}]", target);
  return {std::move(name), "X", std::move(help),
          [&target, least, most](const std::string& text) -> std::string {
            double value{};
            if (!parse_number(text, value) || !(value >= least && value <= most))
              return fmt::format("must be a number from {} to {}, not '{}'", least, most, text);
            target = value;
            return {};
          },
          false};
}

OptionSpec choice_option(std::string name, std::string help, std::string& target, std::vector<std::string> choices) {
  help += fmt::format(": {} [{}]", fmt::join(choices, ", "), target);
  return {std::move(name), "NAME", std::move(help),
          [&target, choices = std::move(choices)](const std::string& text) -> std::string {
            if (std::find(choices.begin(), choices.end(), text) == choices.end())
              return fmt::format("must be one of {}, not '{}'", fmt::join(choices, ", "), text);
            target = text;
            return {};
          },
          false};
}

OptionSpec switch_option(std::string name, std::string help, bool& target) {
  return {std::move(name), "", std::move(help),
          [&target](const std::string& text) -> std::string {
            if (text != "true" && text != "false") return "is a switch: true or false, not '" + text + "'";
            target = text == "true";
            return {};
          },
          false};
}

ParseResult parse(const CommandSpec& command, const std::vector<std::string>& arguments, bool with_config_file) {
  ParseResult result;
  if (std::find(arguments.begin(), arguments.end(), "--help") != arguments.end()) {
    result.help = true;
    return result;
  }
  const po::options_description description = describe(command, with_config_file);
  po::positional_options_description positional;
  if (!command.positional.empty()) positional.add(command.positional.c_str(), -1);
  std::set<std::string> taken;
  std::string config_file;
  try {
    po::options_description accepted;
    accepted.add(description);
    accepted.add_options()(kStray, po::value<Values>()->composing());
    if (command.positional.empty()) positional.add(kStray, -1);
    po::command_line_parser parser(arguments);
    parser.options(accepted).allow_unregistered().style(po::command_line_style::unix_style &
                                                        ~po::command_line_style::allow_guessing);
    parser.positional(positional);
    std::vector<po::option> options = parser.run().options;
    for (const po::option& option : options) {
      if (option.string_key == "config" && !option.value.empty()) config_file = option.value.back();
      if (option.string_key == kStray) result.problems.push_back("unexpected argument '" + option.value.front() + "'");
    }
    std::erase_if(options, [](const po::option& option) { return option.string_key == kStray; });
    assign_all(command, options, "", false, taken, result.problems);
  } catch (const po::error& error) {
    result.problems.push_back(error.what());
  }
  if (config_file.empty()) return result;
  std::ifstream file(config_file);
  if (!file) {
    result.problems.push_back("--config: cannot read '" + config_file + "'; check the path");
    return result;
  }
  try {
    assign_all(command, po::parse_config_file(file, description, true).options, config_file + ": ", true, taken,
               result.problems);
  } catch (const po::error& error) {
    result.problems.push_back(config_file + ": " + error.what());
  }
  return result;
}

std::string help_text(const CommandSpec& command, bool with_config_file) {
  std::string options;
  {
    std::ostringstream stream;
    stream << describe(command, with_config_file);
    options = stream.str();
  }
  return fmt::format("{}\n\nUsage: {}\n\n{}\nExamples:\n{}", command.summary, command.usage, options, command.examples);
}

}  // namespace voronoi::jobs
