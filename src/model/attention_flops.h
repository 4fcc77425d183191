// What attention costs, for plans and counters.
#pragma once

#include <algorithm>
#include <cstdint>

namespace voronoi::model {

/// Scores and weighted values of a sequence's n_tokens queries behind n_past others: each over itself and the keys
/// before it, at most `window` of them (0: all). values: of all heads together. A multiplication and an addition are
/// two.
inline double attention_flops(std::int64_t n_tokens, std::int64_t n_past, std::int64_t window, std::int64_t values) {
  const std::int64_t last = n_past + n_tokens;
  // Queries up to this place see all that is before them.
  const std::int64_t open = window > 0 ? std::clamp(window, n_past, last) : last;
  const auto sum_to = [](std::int64_t n) { return static_cast<double>(n) * static_cast<double>(n + 1) / 2; };
  const double keys = sum_to(open) - sum_to(n_past) + static_cast<double>(last - open) * static_cast<double>(window);
  return 4 * keys * static_cast<double>(values);
}

/// Of the backward pass, which makes the scores again: five products for the forward pass's two.
inline constexpr double kAttentionBackward = 2.5;

}  // namespace voronoi::model
