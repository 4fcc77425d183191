// What the client calls the modules of a wrapper's language model.
#pragma once

#include <string>
#include <string_view>

#include "core/json.h"
#include "model/config.h"

namespace voronoi::exporting {

/// The name of a module of the language model ("model.layers.0.mlp.up_proj") in the class that config.json names:
/// within a wrapper transformers has it in `model.language_model`, whatever the checkpoint's tensors are called, whose
/// names it translates as it loads them (4.52 and later).
std::string module_name(const model::ModelConfig& config, std::string_view name);
/// The same of a module of another part, by the name of its tensors.
std::string other_module_name(const model::ModelConfig& config, std::string_view stored);
/// A "quantization_config" with the names of the language model's modules as if it stood alone.
core::Json own_module_names(const model::ModelConfig& config, const core::Json& quantization);

}  // namespace voronoi::exporting
