// What --bits and the rules stand for on a model.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "model/config.h"
#include "run/settings.h"

namespace voronoi::planning {

/// For methods that choose by bits, and any with --allocate: puts the setting that fits those of --bits on this model
/// into the parameters, and those of a rule on the linears that it decides into the rule, and says in a line what it
/// is. --bits is for linears of which no rule says what it would choose. Throws ConfigError when none fits, and for a
/// rule that matches nothing.
void resolve_bits(run::Settings& options, const model::ModelConfig& config);

/// What of the parameters bits choose, as a rule says it; `bits` itself where the method has them.
std::vector<std::pair<std::string, std::string>> chosen_values(const quant::QuantParameters& parameters);

}  // namespace voronoi::planning
