// A GGUF file's tokenizer in the files of a Hugging Face directory.
#pragma once

#include <map>
#include <string>

namespace voronoi::model {

/// File name -> content: tokenizer.json, which the `tokenizers` library reads and which gives the ids that
/// open_tokenizer(path) gives, and tokenizer_config.json. Control tokens become special added tokens, as in Hugging
/// Face's own conversions: they match in a text. Throws StoreError / FormatError.
std::map<std::string, std::string> gguf_tokenizer_files(const std::string& path);

}  // namespace voronoi::model
