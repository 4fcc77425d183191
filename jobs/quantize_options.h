// Options of `voronoi quantize`.
#pragma once

#include <string>
#include <vector>

#include "core/option.h"
#include "jobs/command_line.h"
#include "run/settings.h"

namespace voronoi::jobs {

CommandSpec quantize_command(run::Settings& options);

/// Options of the last start of the run that the arguments name, to go on with; none where they give both model and
/// texts, or where there is no run.
std::vector<run::GivenOption> options_of_run(const std::vector<std::string>& arguments);

core::OptionSpec export_profile_option(std::string& profile);

}  // namespace voronoi::jobs
