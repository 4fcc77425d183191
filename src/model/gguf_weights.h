// A GGUF file as a weight source with the names and the layout of a Hugging Face directory.
#pragma once

#include <memory>
#include <string>

#include "model/weights.h"

namespace voronoi::model {

/// Throws StoreError / FormatError; see open_model().
std::unique_ptr<WeightSource> open_gguf_model(const std::string& path);

}  // namespace voronoi::model
