// Going on with a run from what its directory knows.
#pragma once

#include <string>
#include <vector>

#include "run/run_state.h"
#include "store/run_directory.h"

namespace voronoi::run {

/// The options of the last start, paths made absolute from the directory that they were given in. Throws ConfigError
/// when the journal does not tell them: of a run that an earlier version started.
std::vector<GivenOption> resume_options(const store::RunPaths& paths, const RunState& state);

/// The shell command that goes on with the run, on as many ranks as its last start; of a run whose journal does not
/// tell the options, a sentence instead.
std::string describe_resume(const store::RunPaths& paths, const RunState& state);

}  // namespace voronoi::run
