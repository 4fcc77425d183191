#include "jobs/command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "jobs/rule_tables.h"

namespace voronoi::jobs {
namespace {

namespace po = boost::program_options;
using Values = std::vector<std::string>;

/// Takes the arguments without a dash of commands that want none, so that they are reported with all other problems.
constexpr const char* kStray = "stray-argument";

po::options_description describe(const CommandSpec& command, bool with_config_file) {
  po::options_description description("Options", 118, 60);
  auto add = description.add_options();
  for (const core::OptionSpec& option : command.options) {
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

/// What one source gives: the command line, or a config file.
struct Source {
  std::string file;  ///< empty: the command line
  std::vector<po::option> options;
  std::vector<std::string> tables;  ///< the places of the last options, one each, which come from tables
  /// An option's name or table with its file, for people.
  std::string place(std::size_t i) const {
    const std::size_t plain = options.size() - tables.size();
    if (file.empty()) return "--" + options[i].string_key;
    return file + ": " + (i < plain ? options[i].string_key : tables[i - plain]);
  }
};

/// Assigns the values of one source; names already given by a stronger source are left alone.
void assign_all(const CommandSpec& command, const Source& source, std::set<std::string>& taken, ParseResult& result) {
  std::set<std::string> here;
  for (std::size_t i = 0; i < source.options.size(); ++i) {
    const po::option& option = source.options[i];
    if (option.unregistered) {
      result.problems.push_back(source.place(i) + (source.file.empty() ? ": unknown option" : ": unknown key") +
                                "; voronoi " + command.name + " --help lists them");
      continue;
    }
    const auto spec =
        std::find_if(command.options.begin(), command.options.end(),
                     [&](const core::OptionSpec& candidate) { return candidate.name == option.string_key; });
    if (spec == command.options.end()) continue;  // --config, --help
    if (taken.contains(spec->name)) continue;
    if (!here.insert(spec->name).second && !spec->repeatable) {
      result.problems.push_back(source.place(i) + ": given more than once");
      continue;
    }
    const Values values = option.value.empty() ? Values{"true"} : Values(option.value.begin(), option.value.end());
    for (const std::string& value : values) {
      if (std::string problem = spec->assign(value); !problem.empty())
        result.problems.push_back(source.place(i) + ": " + problem);
      result.given.push_back({spec->name, value, spec->path, source.place(i)});
    }
  }
  taken.insert(here.begin(), here.end());
}

void assign_before(const CommandSpec& command, const std::vector<run::GivenOption>& before,
                   const std::set<std::string>& taken, ParseResult& result) {
  for (const run::GivenOption& option : before) {
    if (taken.contains(option.name)) continue;
    const auto spec = std::find_if(command.options.begin(), command.options.end(),
                                   [&](const core::OptionSpec& candidate) { return candidate.name == option.name; });
    const std::string problem =
        spec == command.options.end() ? "is no option of this version" : spec->assign(option.value);
    if (!problem.empty()) result.problems.push_back("--" + option.name + " of an earlier start: " + problem);
    result.given.push_back(option);
    result.given.back().where = "--" + option.name + " of an earlier start:";
  }
}

/// The command with the option that all of them share.
CommandSpec with_log_format(CommandSpec command, std::string& format) {
  command.options.push_back(core::choice_option(
      "log-format", "lines on stderr and in logs; json: one object a line with time, level, rank and message", format,
      {"text", "json"}));
  return command;
}

/// What other programs' spelling of an option means here; empty when it is none of ours: -model, --vector_length.
std::string meant_option(const CommandSpec& command, const std::string& argument) {
  if (argument.size() < 3 || argument[0] != '-') return "";
  std::string name = argument.substr(argument[1] == '-' ? 2 : 1);
  name.resize(std::min(name.find('='), name.size()));
  const bool one_dash = argument[1] != '-', underscores = name.find('_') != std::string::npos;
  if (!one_dash && !underscores) return "";
  std::replace(name.begin(), name.end(), '_', '-');
  const bool known = name == "config" || name == "help" ||
                     std::any_of(command.options.begin(), command.options.end(),
                                 [&](const core::OptionSpec& option) { return option.name == name; });
  return known ? "--" + name : "";
}

}  // namespace

ParseResult parse(const CommandSpec& own, const std::vector<std::string>& arguments, bool with_config_file,
                  const std::vector<run::GivenOption>& before) {
  ParseResult result;
  if (std::find(arguments.begin(), arguments.end(), "--help") != arguments.end()) {
    result.help = true;
    return result;
  }
  const CommandSpec command = with_log_format(own, result.log_format);
  for (const std::string& argument : arguments)
    if (const std::string meant = meant_option(command, argument); !meant.empty())
      result.problems.push_back(fmt::format("'{}': write {}", argument, meant));
  if (!result.problems.empty()) return result;  // what follows would be read as something else
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
    Source source{"", parser.run().options, {}};
    for (const po::option& option : source.options) {
      if (option.string_key == "config" && !option.value.empty()) config_file = option.value.back();
      if (option.string_key == kStray) result.problems.push_back("unexpected argument '" + option.value.front() + "'");
    }
    std::erase_if(source.options, [](const po::option& option) { return option.string_key == kStray; });
    assign_all(command, source, taken, result);
  } catch (const po::error& error) {
    result.problems.push_back(error.what());
  }
  if (!config_file.empty()) {
    std::ifstream file(config_file);
    if (!file) {
      result.problems.push_back("--config: cannot read '" + config_file + "'; check the path");
      return result;
    }
    try {
      const ConfigText text = read_config(file);
      for (const std::string& problem : text.problems) result.problems.push_back(config_file + ": " + problem);
      std::istringstream lines(text.options);
      Source source{config_file, po::parse_config_file(lines, description, true).options, {}};
      for (const ConfigText::Table& table : text.tables) {
        po::option option(kRuleOption, {table.rule});
        option.unregistered = description.find_nothrow(kRuleOption, false) == nullptr;
        source.options.push_back(std::move(option));
        source.tables.push_back(table.place);
      }
      assign_all(command, source, taken, result);
    } catch (const po::error& error) {
      result.problems.push_back(config_file + ": " + error.what());
    }
  }
  assign_before(command, before, taken, result);
  return result;
}

core::OptionSpec original_option(std::string& target) {
  return core::as_path(core::text_option("original", "PATH",
                                         "where the model that a run was made from is now, when it moved; it must be "
                                         "the same, by its fingerprint",
                                         target));
}

std::string help_text(const CommandSpec& command, bool with_config_file) {
  std::string options;
  {
    std::ostringstream stream;
    std::string text = "text";
    stream << describe(with_log_format(command, text), with_config_file);
    options = stream.str();
  }
  return fmt::format("{}\n\nUsage: {}\n\n{}\nExamples:\n{}", command.summary, command.usage, options, command.examples);
}

}  // namespace voronoi::jobs
