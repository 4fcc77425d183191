// Texts as requests for log-likelihoods, joined and cut as lm-evaluation-harness 0.4.9 does with models of
// transformers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/corpus.h"
#include "model/tokenizer.h"
#include "validation/request_packs.h"

namespace voronoi::validation {

/// context ids = encode(context), continuation ids = encode(context + continuation)[len(context ids):], after white
/// space at the end of the context has moved to the front of the continuation. Instead of an empty context stands the
/// prefix: BOS, where there is none the first id that ends a text.
class RequestEncoder {
 public:
  /// automatic: BOS before the text for the family of Gemma alone, whatever the tokenizer does by itself. The
  /// tokenizer must outlive it. Throws ConfigError when `always` is asked of a tokenizer without BOS.
  RequestEncoder(const model::Tokenizer& tokenizer, const model::ModelConfig& config, model::BosRule rule);

  /// Throws FormatError naming the request where a prefix is needed and there is none.
  LikelihoodRequest encode(std::string name, std::string_view context, std::string_view continuation);
  /// Every token of a text, windows of max_length after one another: each but the first begins with the last token of
  /// the one before, the last reaches back as far as it can.
  std::vector<LikelihoodRequest> rolling(const std::string& name, std::string_view text, std::int64_t max_length) const;

  /// What stands before a text: "none" or an id.
  std::string bos() const { return bos_ ? std::to_string(*bos_) : "none"; }

 private:
  std::vector<std::int32_t> ids_of(std::string_view text) const;
  std::int32_t prefix(const std::string& name) const;

  const model::Tokenizer& tokenizer_;
  std::optional<std::int32_t> bos_, prefix_;
  // The context before: choices mostly share it.
  std::string last_context_;
  std::optional<std::vector<std::int32_t>> last_ids_;
};

}  // namespace voronoi::validation
