// Requests for log-likelihoods as JSON lines: what `score` reads and writes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "validation/likelihood.h"

namespace voronoi::validation {

/// One line: {"context", "continuation"} as texts, {"context_ids", "continuation_ids"}, or {"text"}, of which every
/// token is scored, in windows.
struct RequestLine {
  enum class Kind { texts, ids, text } kind = Kind::texts;
  std::string place;                  ///< "FILE: line 7"
  std::string context, continuation;  ///< texts; of a text it is the continuation
  LikelihoodRequest ids;
};

/// Blank lines do not count; other members are ignored. Throws FormatError naming file and line, or the file when it
/// holds no request.
std::vector<RequestLine> parse_requests(std::string_view lines, const std::string& file);

/// A line's answer: the sum over its requests.
struct RequestAnswer {
  Likelihood likelihood;
  std::int64_t n_tokens = 0;
};
/// JSON lines {"loglikelihood", "is_greedy", "tokens"}.
std::string answers_text(std::span<const RequestAnswer> answers);

}  // namespace voronoi::validation
