// What tuning of the whole model goes on from after a kill, as files of the run directory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "run/run_state.h"
#include "store/start.h"
#include "tune/descent.h"
#include "tune/moving_codes.h"

namespace voronoi::stages {

/// Of the files of a generation of all layers.
std::string digest_of_generation(const run::RunState& state, std::int64_t generation);

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

/// RunPaths::tuning_buffers of all blocks whose buffers this rank holds, as of a step. `settings`: as above.
void write_tuning_buffers(const store::Start& start, const std::string& settings, std::int64_t step,
                          std::int64_t n_layers, const tune::MovingCodes& codes);
/// Throws FormatError for a file that is missing, damaged or of other settings.
void read_tuning_buffers(const store::RunPaths& paths, const std::string& settings, std::int64_t step,
                         std::int64_t n_layers, tune::MovingCodes& codes);
/// Removes those of all other steps; one rank.
void remove_tuning_buffers(const store::Start& start, std::int64_t n_layers, std::optional<std::int64_t> but_of_step);

}  // namespace voronoi::stages
