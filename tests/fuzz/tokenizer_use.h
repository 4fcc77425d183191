// What every target with a tokenizer does with one that was accepted.
#pragma once

#include <array>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/fuzz.h"
#include "model/tokenizer.h"

namespace voronoi::fuzz {

/// Encodes and decodes short texts, one of them from the input itself so that its tokens are met. A regular expression
/// may fail on a text, which is the file's fault.
inline void use_tokenizer(const model::Tokenizer& tokenizer, std::string_view input) {
  static constexpr std::string_view kText =
      "Hello, world's 1234567 \t\n  caf\xC3\xA9 \xE6\xBC\xA2\xE5\xAD\x97 \xF0\x9F\x99\x82 e\xCC\x81 <s></s> <0x0A> "
      "\xE2\x96\x81 a  b \xFF\xC3 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
  const std::int64_t size = tokenizer.vocab_size();
  require(size >= 0 && size <= std::numeric_limits<std::int32_t>::max(), "size of a vocabulary");
  for (const auto bos : {tokenizer.bos_id(), tokenizer.automatic_bos()})
    require(!bos || (*bos >= 0 && *bos < size), "BOS outside the vocabulary");
  const std::array<std::string_view, 3> texts{kText, input.substr(0, 200),
                                              input.substr(input.size() - std::min<std::size_t>(input.size(), 100))};
  for (const std::string_view text : texts)
    accepts([&] {
      const std::vector<std::int32_t> ids = tokenizer.encode(text);
      for (const std::int32_t id : ids) require(id >= 0 && id < size, "an id outside the vocabulary");
      tokenizer.decode(ids);
    });
  using Limits = std::numeric_limits<std::int32_t>;
  const std::array<std::int32_t, 5> odd{-1, 0, Limits::max(), Limits::min(), static_cast<std::int32_t>(size)};
  tokenizer.decode(odd);
}

}  // namespace voronoi::fuzz
