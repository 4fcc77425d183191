// Requests for log-likelihoods as packs of rows for the forward pass: what inputs begin with in common stands once.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "model/transformer.h"

namespace voronoi::validation {

/// How likely is `continuation` after `context`?
struct LikelihoodRequest {
  std::string name;  ///< as messages call it
  std::vector<std::int32_t> context, continuation;
};

/// The last ids of a request's sequence are predicted, the input is what lies before each of them.
struct ScoredInput {
  std::vector<std::int32_t> ids;      ///< at least targets.size()
  std::vector<std::int32_t> targets;  ///< the last of ids[1..] and one more
  bool truncated = false;             ///< ids were cut from the left
};

/// (context + continuation)[-(max_length + 1):][:-1], as lm-evaluation-harness has it. Throws FormatError, naming the
/// request, for an empty context or continuation, a continuation longer than max_length, and ids beyond vocab_size.
ScoredInput scored_input(const LikelihoodRequest& request, std::int64_t max_length, std::int64_t vocab_size);

/// What goes through a block together, and what is asked of it.
struct RequestPack {
  std::vector<std::int32_t> ids;  ///< one a row
  std::vector<model::Segment> segments;
  struct Question {
    std::int64_t request = 0, first = 0, n_tokens = 0;  ///< its part of rows and targets
  };
  std::vector<Question> questions;
  std::vector<std::int32_t> rows, targets;

  std::int64_t n_rows() const { return static_cast<std::int64_t>(ids.size()); }
};

/// Equal inputs are one, those that begin alike share what they begin with. A pack has about a thousand rows, more
/// where a long beginning is shared or an input is longer. Which request is in which pack depends on the inputs alone.
/// longest_shared: inputs with more ids share nothing, as the model sees beginnings of theirs in another way.
std::vector<RequestPack> pack_requests(std::span<const ScoredInput> inputs,
                                       std::int64_t longest_shared = std::numeric_limits<std::int64_t>::max());

}  // namespace voronoi::validation
