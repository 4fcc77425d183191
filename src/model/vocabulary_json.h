// JSON with a large vocabulary inside: read in one pass, the vocabulary and merges apart from the rest.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"

namespace voronoi::model {

struct VocabularyJson {
  std::vector<std::pair<std::string, std::uint64_t>> vocabulary;  ///< in the order of the file; names may repeat
  std::vector<std::pair<std::string, std::string>> merges;
  core::Json rest;  ///< everything else
};

/// tokenizer.json: model.vocab and model.merges are taken apart. (core::parse_json keeps objects in the order of the
/// file and looks through all keys for each new one, too slow for 10^5 of them.)
VocabularyJson parse_tokenizer_json(std::string_view text, const std::string& file);
/// vocab.json: the whole object is the vocabulary.
VocabularyJson parse_vocab_json(std::string_view text, const std::string& file);

}  // namespace voronoi::model
