// What --bits stands for on a model.
#pragma once

#include "model/config.h"
#include "run/settings.h"

namespace voronoi::planning {

/// For methods that choose by --bits: puts the setting that fits the wanted bits on this model into the parameters and
/// says in a line what it is; does nothing without --bits. Throws ConfigError when none fits.
void resolve_bits(run::Settings& options, const model::ModelConfig& config);

}  // namespace voronoi::planning
