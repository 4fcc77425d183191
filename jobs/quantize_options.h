// Options of `voronoi quantize`.
#pragma once

#include "core/option.h"
#include "jobs/command_line.h"
#include "run/settings.h"

namespace voronoi::jobs {

CommandSpec quantize_command(run::Settings& options);

core::OptionSpec export_profile_option(std::string& profile);

}  // namespace voronoi::jobs
