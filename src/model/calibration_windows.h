// Windows of calibration: which a text gives, by its weight among the others; none twice.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/corpus.h"

namespace voronoi::model {

/// A weight is whole thousandths, so that shares are exact.
inline constexpr std::int64_t kWeightUnit = 1000, kMostWeight = 1'000'000;

/// "2,1,0.5" as thousandths; returns a problem ("must be ..."), or an empty string. Each is at least 0.001, at most
/// kMostWeight, and has at most three decimals.
std::string parse_weights(std::string_view list, std::vector<std::int64_t>& thousandths);

/// n divided among weights above 0 in proportion: the whole part of each quota, and one more where the largest parts
/// are left, the first of equal ones first (Hamilton's method). Exact for n up to 2^32.
std::vector<std::int64_t> apportion(std::int64_t n, const std::vector<std::int64_t>& weights);

/// What is asked for.
struct CalibrationText {
  std::int64_t sequences = 0, context = 0;
  std::vector<std::int64_t> weights;  ///< of the texts, in thousandths; empty: all alike
  bool keep_duplicates = false;       ///< windows with the tokens of one before are taken too
};

/// What a text gave.
struct TextShare {
  std::int64_t text_tokens = 0;  ///< of all of it; 0: its share is no window, and it was not looked at
  std::int64_t windows = 0;      ///< that were taken
  std::int64_t duplicates = 0;   ///< besides, left out: their tokens are those of a window before
};

struct CalibrationWindows {
  Windows windows;
  std::vector<TextShare> shares;  ///< of the texts
};

/// `sequences` windows of `context` tokens, shared over the texts by their weights and spread evenly over each text's
/// length, at least one token apart, no randomness. A window whose tokens are those of one before, of any text, is left
/// out and not made up for. BOS (by the tokenizer's rule) replaces the first token of each window when the tokenizer
/// adds one. WikiExtractor "<doc ...>" / "</doc>" lines are dropped. Throws FormatError when a text is too short, with
/// what it can give; warns where its windows overlap.
CalibrationWindows calibration_windows(const Tokenizer& tokenizer, const std::vector<Text>& texts,
                                       const CalibrationText& asked);

/// Tuning: whole windows of `context` tokens that do not overlap, n_tokens / context of them (rounded up; 0: all there
/// are), shared evenly over the texts as far as they reach and spread over each text's length. BOS and document lines
/// as in calibration. Throws FormatError when a text gives no window, ConfigError when all together are too short.
Windows disjoint_windows(const Tokenizer& tokenizer, const std::vector<Text>& texts, std::int64_t n_tokens,
                         std::int64_t context);

}  // namespace voronoi::model
