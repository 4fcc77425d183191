// The small files of a Hugging Face directory that an export takes over from the original.
#pragma once

#include <map>
#include <string>

#include "core/json.h"
#include "model/config.h"

namespace voronoi::exporting {

/// config.json of a model directory, or made from a GGUF file's metadata, with the type of the stored tensors and
/// whether the head is tied as `config` has them. An earlier quantization_config is taken out, and "auto_map": the
/// files that it names do not come along, and every family here is one of transformers' own. Throws FormatError /
/// StoreError.
core::Json original_config(const std::string& model, const model::ModelConfig& config);

/// Path below the export -> content: tokenizer files (of a GGUF file: made from its vocabulary), generation and chat
/// settings, licence and notices, and the code that tokenizer_config.json names; an "auto_map" there whose code is not
/// to be had goes. A file given as tokenizer keeps only its neighbours tokenizer_config.json, special_tokens_map.json
/// and added_tokens.json, and that code.
std::map<std::string, std::string> companion_files(const std::string& model, const std::string& tokenizer);

}  // namespace voronoi::exporting
