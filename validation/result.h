// A figure of a model or a run, whatever was measured: what `eval` prints, a run keeps, and reports show.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "core/json.h"

namespace voronoi::validation {

inline constexpr const char *kPerplexity = "perplexity", *kDivergence = "kl", *kDivergenceTail = "kl_p99",
                            *kSameChoice = "top1";
/// The task that is the mean of those that were asked.
inline constexpr const char* kMeanOfTasks = "mean";

/// One figure with all that decides it. The field names are the contract of `eval --json` and report.json.
struct Result {
  std::string model, method, label;
  std::optional<double> bits_true, bits_nominal;  ///< null for an unquantized model
  std::string task;                               ///< name of a text's file, or of a task
  std::string metric;                             ///< one of those above, or of a task: acc, acc_norm
  double value = 0;
  std::optional<double> standard_error;  ///< of value, in its unit; null where there is none (n below 2, a percentile)
  std::int64_t n = 0;                    ///< predictions, or questions
  core::Json protocol = core::Json::object();  ///< an object: text or data with its SHA-256, windows, limit, shots, ...
  double seconds = 0;                          ///< wall time of the measurement that gave it
  std::optional<double> reference;             ///< the unquantized model's, same protocol, same program run
};

/// model, method, label, bits_true, bits_nominal, task, metric, value, stderr, n, protocol, seconds, reference; a
/// perplexity also has, beside them, text, text_sha256, join, context, windows, tokens, bos, dtype, nll, perplexity and
/// reference_perplexity.
core::Json to_json(const Result& result);
/// Throws core::Json::exception where a field is missing or of another type,
/// FormatError where the protocol is none.
Result result_from_json(const core::Json& json);

/// "bos none, context 2048, join wikitext, ...": for people, without the name and checksum of text or data.
std::string protocol_text(const core::Json& protocol);

/// Of the mean of a sample: its standard deviation over the root of their number; null for less than two.
std::optional<double> standard_error(std::span<const double> values);

}  // namespace voronoi::validation
