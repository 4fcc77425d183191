#include "tune/footprint.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "calib/footprint.h"
#include "tune/code_update.h"
#include "tune/distillation.h"

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

CodesWork codes_work(std::int64_t n_weights, std::int64_t centroids) {
  // A centroid costs a multiplication and an addition a weight. The buffer, its mean and the derivative are read, two
  // of them written; then buffer and decoded weight are compared.
  const auto n = static_cast<double>(n_weights);
  return {2 * kRecodedShare * static_cast<double>(centroids) * n, 4 * 8 * n};
}

TuneWork block_work(const model::ModelConfig& config, std::int64_t layer, std::int64_t n_tokens,
                    const Sequences& sequences) {
  const double once = forward(config, layer, n_tokens);
  return {2 * once * static_cast<double>(n_sequences(sequences)), once * (1 + kBackwardPasses), once};
}

TuneMemory tune_memory(const model::ModelConfig& config, const TunedSizes& sizes, std::int64_t n_tokens,
                       const Sequences& sequences, int n_ranks) {
  // The rank with the most sequences.
  std::int64_t mine = 0;
  for (int rank = 0; rank < n_ranks; ++rank)
    mine = std::max<std::int64_t>(mine, std::ssize(windows_of(sequences, rank, n_ranks)));
  const std::int64_t stream = 4 * n_tokens * config.hidden_size;
  const std::int64_t q = config.n_heads * config.head_dim, kv = config.n_kv_heads * config.head_dim;
  std::int64_t dense = 0, largest = 0, inner = 0;
  std::vector<std::int64_t> dense_of_blocks;
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    std::int64_t block = 0;
    for (const model::SiteSpec& site : model::block_sites(config, layer))
      for (const model::LinearSpec& linear : site.linears) {
        block += 4 * linear.out_features * linear.in_features;
        largest = std::max(largest, 4 * linear.out_features * linear.in_features);
        inner = std::max(inner, linear.in_features);
      }
    dense = std::max(dense, block);
    dense_of_blocks.push_back(block);
  }
  // Kept by the forward pass of a block and made by the backward one: streams, norms, heads, and the gated parts.
  const std::int64_t block_work =
      4 * n_tokens * (8 * config.hidden_size + 4 * (q + 2 * kv) + 5 * inner) + 18 * n_tokens * kv;
  const std::int64_t stride = stream_stride(config.n_layers, n_tokens, config.hidden_size);
  const std::int64_t kept = stream * ((config.n_layers + stride - 1) / stride + stride);
  const std::int64_t head = 4 * config.vocab_size * config.hidden_size * (config.tied_embeddings ? 1 : 2);
  // Two models' logits of a slab of rows.
  const std::int64_t logits = 3 * 4 * config.vocab_size *
                              std::min<std::int64_t>(512, std::max<std::int64_t>(1, (24 << 20) / config.vocab_size));
  // Of each number: in its array, at first, now, at its best, two moments, gradient, on the device with the sum of a
  // sequence, and the nodes of the tree of sums.
  const auto nodes =
      static_cast<std::int64_t>(std::bit_width(static_cast<std::uint64_t>((sequences.batch + n_ranks - 1) / n_ranks)));
  const std::int64_t numbers = sizes.n_parameters * (10 * 4 + 8 * (nodes + 2));
  TuneMemory memory;
  memory.end_to_end =
      head + sizes.code_bytes + numbers + mine * stream + dense + largest + kept + std::max(block_work, logits);
  // Buffers and means of the blocks whose stripes a rank has, a block's derivatives, and its largest linear decoded,
  // with two copies of its distances. Codes: the best, both copied, in a shard, and in its file as that grows.
  std::vector<std::int64_t> buffers(static_cast<std::size_t>(n_ranks));
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer)
    for (int rank = 0; rank < n_ranks; ++rank) {
      const Share stripes = share_of(sequences.batch, rank, n_ranks);
      const std::int64_t stripe = layer % sequences.batch;
      if (stripe >= stripes.first && stripe < stripes.last)
        buffers[static_cast<std::size_t>(rank)] += 2 * dense_of_blocks[static_cast<std::size_t>(layer)];
    }
  memory.codes = memory.end_to_end + *std::max_element(buffers.begin(), buffers.end()) + dense + 3 * largest +
                 9 * sizes.code_bytes;
  const std::int64_t of_block = numbers / std::max<std::int64_t>(config.n_layers, 1) +
                                sizes.code_bytes / std::max<std::int64_t>(config.n_layers, 1);
  memory.block = head + of_block + 2 * mine * stream + 2 * dense + largest + 4 * stream + block_work;
  return memory;
}

}  // namespace voronoi::tune
