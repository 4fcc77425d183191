// What end-to-end tuning goes on from after a kill, as a file of the run directory.
#pragma once

#include <optional>
#include <string>

#include "store/start.h"
#include "tune/descent.h"

namespace voronoi::stages {

/// RunPaths::tuning_state. `settings`: text of all that decides the result.
void write_tuning_state(const store::Start& start, const std::string& phase, const std::string& settings,
                        const tune::DescentState& state);
/// Throws FormatError for a file that is damaged, of other settings, or of another number of parameters.
tune::DescentState read_tuning_state(const store::RunPaths& paths, const std::string& phase,
                                     const std::string& settings, std::size_t n_parameters);

}  // namespace voronoi::stages
