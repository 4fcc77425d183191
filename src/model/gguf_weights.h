// A GGUF file as a weight source with the names and the layout of a Hugging Face directory.
#pragma once

#include <memory>
#include <string>

#include "model/weights.h"

namespace voronoi::model {

/// The file's metadata as the config.json of a Hugging Face directory; without the type of the weights. Throws
/// StoreError / FormatError.
core::Json gguf_config_json(const std::string& path);

/// Throws StoreError / FormatError; see open_model().
std::unique_ptr<WeightSource> open_gguf_model(const std::string& path);

}  // namespace voronoi::model
