// The small files of a Hugging Face directory that an export takes over from the original.
#pragma once

#include <map>
#include <string>

#include "core/json.h"
#include "core/types.h"

namespace voronoi::exporting {

/// config.json of a model directory, or made from a GGUF file's metadata, with the type of the stored tensors set and
/// any earlier quantization_config taken out. Throws FormatError / StoreError.
core::Json original_config(const std::string& model, core::DType dtype);

/// File name -> content: tokenizer files (of a GGUF file: made from its vocabulary), generation and chat settings. A
/// file given as tokenizer keeps only its neighbours tokenizer_config.json, special_tokens_map.json and
/// added_tokens.json.
std::map<std::string, std::string> companion_files(const std::string& model, const std::string& tokenizer);

}  // namespace voronoi::exporting
