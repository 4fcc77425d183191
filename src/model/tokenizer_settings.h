// What stands beside a tokenizer's own file: settings, special and added tokens. Read as transformers reads them.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/added_tokens.h"

namespace voronoi::model {

struct TokenizerSettings {
  std::optional<bool> add_bos, legacy;
  std::optional<std::string> bos_token;
  std::string tokenizer_class;                       ///< without "Fast"; empty where no file tells it
  std::vector<AddedToken> added;                     ///< by their ids
  std::vector<AddedToken> special;                   ///< bos, eos, ... by name; their ids are those of the vocabulary
  std::map<std::string, std::string> special_names;  ///< "bos_token" and the like -> text
};

/// tokenizer_config.json of a folder; special_tokens_map.json and added_tokens.json where that has no
/// "added_tokens_decoder", which takes their place; "tokenizer_class" or else "model_type" of config.json. What is
/// absent says nothing. Throws FormatError / StoreError.
TokenizerSettings read_tokenizer_settings(const std::string& folder);

/// Whether "add_bos_token" decides on BOS: the class makes its template anew from it, whatever tokenizer.json says. For
/// all others the template alone decides.
bool builds_template(const TokenizerSettings& settings);

/// Whether the class is Llama's, for which "legacy": false means that only the text's first part gets a space in front.
bool is_llama_tokenizer(const TokenizerSettings& settings);

}  // namespace voronoi::model
