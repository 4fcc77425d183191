// What --bits stands for on a model.
#pragma once

#include "model/config.h"
#include "run/settings.h"

namespace voronoi::planning {

/// For vptq and voronoi: puts the codebooks that fit the wanted --bits on this model into the parameters and says in a
/// line what they are; does nothing without --bits. Throws ConfigError when none fits.
void resolve_bits(run::Settings& options, const model::ModelConfig& config);

}  // namespace voronoi::planning
