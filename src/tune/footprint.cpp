#include "tune/footprint.h"

#include "calib/footprint.h"

namespace voronoi::tune {
namespace {

/// Forward passes that the backward pass of a block is: itself again, derivatives by inputs and by weights.
constexpr double kBackwardPasses = 3;

double forward(const model::ModelConfig& config, std::int64_t layer, std::int64_t n_tokens) {
  return calib::block_work(config, layer, 1, n_tokens).gemm;
}

std::int64_t n_sequences(const Sequences& sequences) {
  return std::ssize(sequences.training) + std::ssize(sequences.held_out);
}

}  // namespace

TuneWork end_to_end_work(const model::ModelConfig& config, std::int64_t n_tokens, const Sequences& sequences) {
  double blocks = 0;
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) blocks += forward(config, layer, n_tokens);
  const double head = 2.0 * static_cast<double>(n_tokens) * static_cast<double>(config.hidden_size) *
                      static_cast<double>(config.vocab_size);
  return {blocks * static_cast<double>(n_sequences(sequences)), blocks * (1 + kBackwardPasses) + 3 * head,
          blocks + 2 * head};
}

TuneWork block_work(const model::ModelConfig& config, std::int64_t layer, std::int64_t n_tokens,
                    const Sequences& sequences) {
  const double once = forward(config, layer, n_tokens);
  return {2 * once * static_cast<double>(n_sequences(sequences)), once * (1 + kBackwardPasses), once};
}

}  // namespace voronoi::tune
