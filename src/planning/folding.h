// Where a factor of each input of a site can be moved into what computes the input.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"
#include "quant/parameters.h"

namespace voronoi::planning {

/// As AWQ's program folds (llm-awq, auto_scale): the input of q, k, v and of a dense block's gate and up is a norm's
/// output, whose weight takes the factors; that of `o` is attention over v's output where every query head has keys and
/// values of its own; that of `down` is a product with up's output. The norm before a mixture feeds the router and all
/// experts, which would have to share one factor, and so do halves that stand beside each other; some halves have no
/// norm before them.
bool input_scale_folds(const model::ModelConfig& config, std::int64_t layer, const model::SiteSpec& site);

/// Kinds of the model's sites where it does not ("o", "expert.gate_up"), each once.
std::vector<std::string> sites_without_folding(const model::ModelConfig& config);

/// "SITES: what the method does there instead"; empty: it does the same at all sites of the model.
std::string without_folding(const quant::QuantParameters& parameters, const model::ModelConfig& config);

}  // namespace voronoi::planning
