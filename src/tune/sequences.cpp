#include "tune/sequences.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "core/error.h"
#include "core/random.h"

namespace voronoi::tune {

Sequences divide(std::int64_t n_windows, std::int64_t passes, double held_out_share) {
  if (n_windows < 2)
    throw core::ConfigError("--tune-phases: the text gives " + std::to_string(n_windows) +
                            " sequence(s), and one has to be held out; give more --tune-tokens, or more text");
  const std::int64_t every =
      std::clamp<std::int64_t>(static_cast<std::int64_t>(std::llround(1 / held_out_share)), 2, n_windows);
  Sequences sequences;
  std::vector<std::int64_t> others;
  for (std::int64_t i = 0; i < n_windows; ++i) (i % every == every - 1 ? sequences.held_out : others).push_back(i);
  const auto n_training = static_cast<std::int64_t>(others.size());
  sequences.batch = std::clamp<std::int64_t>(n_training * passes / kFewestSteps, 1, std::min(n_training, kMostBatch));
  // A stripe takes every batch-th sequence: each has a part of every text.
  const std::int64_t length = n_training / sequences.batch;
  for (std::int64_t stripe = 0; stripe < sequences.batch; ++stripe)
    for (std::int64_t i = 0; i < length; ++i)
      sequences.training.push_back(others[static_cast<std::size_t>(i * sequences.batch + stripe)]);
  return sequences;
}

std::int64_t window_of(const Sequences& sequences, std::uint64_t seed, std::int64_t step, std::int64_t stripe) {
  const std::int64_t length = sequences.stripe_length(), pass = step / length;
  const core::CounterRandom random(seed, static_cast<std::uint64_t>(pass * sequences.batch + stripe));
  std::vector<std::int64_t> order(static_cast<std::size_t>(length));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i, i)]);
  return sequences.training[static_cast<std::size_t>(stripe * length + order[static_cast<std::size_t>(step % length)])];
}

Share share_of(std::int64_t n, int rank, int size) { return {n * rank / size, n * (rank + 1) / size}; }

std::span<const std::int32_t> ids_of(const model::Windows& windows, std::int64_t window) {
  return std::span(windows.ids)
      .subspan(static_cast<std::size_t>(window * windows.context), static_cast<std::size_t>(windows.context));
}

std::vector<std::int64_t> windows_of(const Sequences& sequences, int rank, int size) {
  const Share stripes = share_of(sequences.batch, rank, size),
              held_out = share_of(std::ssize(sequences.held_out), rank, size);
  std::vector<std::int64_t> windows(sequences.training.begin() + stripes.first * sequences.stripe_length(),
                                    sequences.training.begin() + stripes.last * sequences.stripe_length());
  windows.insert(windows.end(), sequences.held_out.begin() + held_out.first,
                 sequences.held_out.begin() + held_out.last);
  return windows;
}

}  // namespace voronoi::tune
