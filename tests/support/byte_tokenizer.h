// A token for each byte.
#pragma once

#include <string>

#include "model/bpe_tokenizer.h"

namespace voronoi::test {

inline const model::BpeTokenizer& byte_tokenizer() {
  static const model::BpeTokenizer tokenizer([] {
    model::BpeSpec spec;
    spec.file = "tokenizer";
    for (int byte = 0; byte < 256; ++byte)
      spec.tokens.push_back({std::string(1, static_cast<char>(byte)), model::BpeSpec::Kind::piece});
    return spec;
  }());
  return tokenizer;
}

}  // namespace voronoi::test
