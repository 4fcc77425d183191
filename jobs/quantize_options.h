// Options of `voronoi quantize`.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/log.h"
#include "core/option.h"
#include "jobs/command_line.h"
#include "run/settings.h"

namespace voronoi::jobs {

CommandSpec quantize_command(run::Settings& options);

/// Tells the rules where they were given, and assigns what was not: as the run calibrated whose Hessians are taken, as
/// the method understands --effort, and the texts of --calibration-preset. `given`: all of this command's options,
/// without a problem.
void complete(const std::vector<run::GivenOption>& given, run::Settings& settings);

/// Options, with their values, that --effort stands for with a method.
std::vector<std::pair<std::string_view, std::string_view>> effort_options(const std::string& effort,
                                                                          std::string_view method);

/// How a directory calibrated, by options and their values: what a run takes over whose Hessians are from there.
/// Nothing where there is no run, which is told later.
std::vector<std::pair<std::string, std::string>> calibration_options(const std::string& directory);

/// Whether the options say what to calibrate on.
bool names_texts(const run::Settings& settings);

/// Options of the last start of the run that the arguments name, to go on with; none where they give both model and
/// texts, or where there is no run.
std::vector<run::GivenOption> options_of_run(const std::vector<std::string>& arguments);

/// Options of the last start of a directory that this command of voronoi made; none where there is no such directory.
/// Throws ConfigError for one that another command made.
std::vector<run::GivenOption> options_of_start(const std::string& directory, std::string_view command);

core::LogLevel log_level(const std::string& name);

core::OptionSpec export_profile_option(std::string& profile);
/// `name`: as the command calls it.
core::OptionSpec export_layout_option(const std::string& name, std::string& layout);

}  // namespace voronoi::jobs
