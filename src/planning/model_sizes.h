// Sizes of a model without its weights: for plans and for settings that depend on its size.
#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "quant/rules.h"
#include "quant/setting.h"

namespace voronoi::planning {

/// Configuration of a Hugging Face directory (its config.json alone is read), a config.json file, a GGUF file, or a
/// model that the program knows by name. Throws ConfigError listing the known names, FormatError, StoreError.
model::ModelConfig read_model_config(const std::string& model);
/// Rising.
std::vector<std::string> known_model_names();

/// Shapes of all linears with how often they occur, in order of first occurrence.
std::vector<quant::LayerCount> layer_counts(const model::ModelConfig& config);
/// Adds to such a list.
void count_layers(std::vector<quant::LayerCount>& counts, const quant::LayerCount& more);

/// What no linear of the model can have under these parameters, each shape once for the run and for each rule, by the
/// name of the first.
std::vector<std::string> shape_problems(const quant::RunParameters& parameters, const model::ModelConfig& config);

}  // namespace voronoi::planning
