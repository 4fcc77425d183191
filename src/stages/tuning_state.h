// What end-to-end tuning goes on from after a kill, as a file of the run directory.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "store/start.h"
#include "tune/descent.h"

namespace voronoi::stages {

/// All codes of the model, where a phase moves them: those of the state's values, and those of its best.
struct TuningCodes {
  std::vector<std::byte> now, best;
};

/// RunPaths::tuning_state. `settings`: text of all that decides the result. codes: null where none move.
void write_tuning_state(const store::Start& start, const std::string& phase, const std::string& settings,
                        const tune::DescentState& state, const TuningCodes* codes = nullptr);
/// Throws FormatError for a file that is damaged, of other settings, or of another number of parameters or bytes of
/// codes. codes: null where none move; else both of the size that is wanted.
tune::DescentState read_tuning_state(const store::RunPaths& paths, const std::string& phase,
                                     const std::string& settings, std::size_t n_parameters,
                                     TuningCodes* codes = nullptr);

}  // namespace voronoi::stages
