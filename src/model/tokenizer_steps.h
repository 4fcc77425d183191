// What a tokenizer.json does to a text before and behind its BPE model. Whatever is not implemented is refused by name.
#pragma once

#include <cstdint>
#include <optional>

#include "model/bpe_tokenizer.h"
#include "model/json_part.h"

namespace voronoi::model {

void read_normalizer(const Part& part, BpeSpec& spec);
/// byte_level: set when the steps end in GPT-2's alphabet of bytes.
void read_pre_tokenizer(const Part& part, BpeSpec& spec, bool& byte_level);
/// The id of the token that it puts before a text, if it does. What it puts behind one is left out.
std::optional<std::int32_t> read_post_processor(const Part& part);
/// spec.alphabet is set.
void read_decoder(const Part& part, BpeSpec& spec);

}  // namespace voronoi::model
