// Which sequences of a text tune, and which only tell whether it helps.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/corpus.h"

namespace voronoi::tune {

/// Numbers of windows. Training sequences lie in as many stripes as a step takes sequences: every step takes one of
/// each stripe, so that a rank that owns some stripes needs no others'.
struct Sequences {
  std::int64_t batch = 1;              ///< sequences a step
  std::vector<std::int64_t> training;  ///< [batch, stripe_length()], stripe by stripe
  std::vector<std::int64_t> held_out;  ///< rising
  std::int64_t stripe_length() const { return static_cast<std::int64_t>(training.size()) / batch; }
};

/// Steps that a run of tuning should have at least, as far as its text allows: with fewer, larger ones, the same text
/// moves the numbers less. A batch grows to kMostBatch before there are more.
inline constexpr std::int64_t kFewestSteps = 256, kMostBatch = 64;

/// Every round(1 / held_out_share)-th window is held out, spread over the whole, at least one. The batch depends on the
/// windows and passes alone. Throws ConfigError where no window would be left to tune, or to hold out.
Sequences divide(std::int64_t n_windows, std::int64_t passes, double held_out_share);

/// The window that stripe `stripe` gives to step `step`: a pass over the stripe in an order of its own, drawn from the
/// seed, then the next.
std::int64_t window_of(const Sequences& sequences, std::uint64_t seed, std::int64_t step, std::int64_t stripe);

/// The tokens [windows.context] of a window.
std::span<const std::int32_t> ids_of(const model::Windows& windows, std::int64_t window);

/// The share of [0, n) that rank `rank` of `size` takes: [first, last).
struct Share {
  std::int64_t first = 0, last = 0;
};
Share share_of(std::int64_t n, int rank, int size);
/// All windows of a rank: of its stripes, then its share of those held out.
std::vector<std::int64_t> windows_of(const Sequences& sequences, int rank, int size);

}  // namespace voronoi::tune
