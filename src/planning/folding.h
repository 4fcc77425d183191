// What methods do where a factor of each input of a site cannot be moved into what computes the input
// (model/input_scale.h).
#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "quant/parameters.h"

namespace voronoi::planning {

/// Kinds of the model's sites where it does not ("o", "expert.gate_up"), each once.
std::vector<std::string> sites_without_folding(const model::ModelConfig& config);

/// "SITES: what the method does there instead"; empty: it does the same at all sites of the model.
std::string without_folding(const quant::QuantParameters& parameters, const model::ModelConfig& config);

}  // namespace voronoi::planning
