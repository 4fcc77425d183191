#include "tune/residence.h"

#include <algorithm>

#include "model/block_tape.h"

namespace voronoi::tune {

std::int64_t stream_stride(std::int64_t n_layers, std::int64_t n_tokens, std::int64_t hidden_size,
                           std::int64_t budget) {
  const std::int64_t stream = n_tokens * hidden_size * std::int64_t{sizeof(float)};
  const std::int64_t kept = std::max<std::int64_t>(1, budget / stream);
  return std::max<std::int64_t>(1, (n_layers + kept - 1) / kept);
}

std::int64_t taped_blocks(const model::ModelConfig& config, std::int64_t n_tokens, std::int64_t budget) {
  std::int64_t n = 0;
  for (; n < config.n_layers; ++n) {
    budget -= model::tape_bytes(config, config.n_layers - 1 - n, n_tokens);
    if (budget < 0) break;
  }
  return n;
}

}  // namespace voronoi::tune
