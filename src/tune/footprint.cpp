#include "tune/footprint.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "backend/device.h"
#include "calib/footprint.h"
#include "model/block_tape.h"
#include "tune/code_update.h"

namespace voronoi::tune {
namespace {

/// Forward passes that the backward pass of a block is: derivatives by inputs and by weights; the block again where no
/// tape was kept.
constexpr double kBackwardPasses = 2, kAgain = 1;

double forward(const model::ModelConfig& config, std::int64_t layer, std::int64_t n_tokens) {
  return calib::block_work(config, layer, 1, n_tokens).gemm;
}

std::int64_t n_sequences(const Sequences& sequences) {
  return std::ssize(sequences.training) + std::ssize(sequences.held_out);
}

}  // namespace

TuneWork end_to_end_work(const model::ModelConfig& config, std::int64_t n_tokens, const Sequences& sequences,
                         const Residence& residence) {
  double blocks = 0, again = 0;
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    const double once = forward(config, layer, n_tokens);
    blocks += once;
    if (layer < config.n_layers - residence.n_taped) again += kAgain * once;
  }
  const double head = 2.0 * static_cast<double>(n_tokens) * static_cast<double>(config.hidden_size) *
                      static_cast<double>(config.vocab_size);
  return {blocks * static_cast<double>(n_sequences(sequences)), blocks * (1 + kBackwardPasses) + again + 3 * head,
          blocks + 2 * head};
}

CodesWork codes_work(std::int64_t n_weights, std::int64_t centroids) {
  // A centroid costs a multiplication and an addition a weight. The buffer, its mean and the derivative are read, two
  // of them written; then buffer and decoded weight are compared.
  const auto n = static_cast<double>(n_weights);
  return {2 * kRecodedShare * static_cast<double>(centroids) * n, 4 * 8 * n};
}

double weights_bytes(std::int64_t n_weights, const Sequences& sequences) {
  // Of each sequence the derivative is copied and added; weight and moments are stepped, then rounded to codes, which
  // takes about as long as that of ten numbers.
  return 4.0 * static_cast<double>(n_weights) * (5.0 * static_cast<double>(sequences.batch) + 8 + 10);
}

TuneWork block_work(const model::ModelConfig& config, std::int64_t layer, std::int64_t n_tokens,
                    const Sequences& sequences) {
  const double once = forward(config, layer, n_tokens);
  return {2 * once * static_cast<double>(n_sequences(sequences)), once * (1 + kBackwardPasses), once};
}

TuneMemory tune_memory(const model::ModelConfig& config, const TunedSizes& sizes, std::int64_t n_tokens,
                       const Sequences& sequences, int n_ranks, const Residence& residence) {
  // The rank with the most sequences.
  std::int64_t mine = 0;
  for (int rank = 0; rank < n_ranks; ++rank)
    mine = std::max<std::int64_t>(mine, std::ssize(windows_of(sequences, rank, n_ranks)));
  const std::int64_t n_layers = std::max<std::int64_t>(config.n_layers, 1);
  const std::int64_t stream = 4 * n_tokens * config.hidden_size;
  const std::int64_t q = config.n_heads * config.head_dim, kv = config.n_kv_heads * config.head_dim;
  std::int64_t dense = 0, largest = 0, inner = 0, tape = 0, tapes = 0;
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
    const std::int64_t its_tape = model::tape_bytes(config, layer, n_tokens);
    tape = std::max(tape, its_tape);
    if (layer >= config.n_layers - residence.n_taped) tapes += its_tape;
  }
  // The student's block with what products take of it, a 16-bit copy or itself; the teacher's.
  const std::int64_t loaded = sizes.dtype == core::DType::f32 ? dense : dense / 2;
  const std::int64_t assembled = sizes.dtype == core::DType::f32 ? dense : dense + loaded;
  const std::int64_t untaped = config.n_layers - residence.n_taped;
  // Kept by the forward pass of a block and made by the backward one: streams, norms, heads, and the gated parts.
  const model::DeltaConfig& delta = config.delta;
  const std::int64_t attention_work =
      18 * n_tokens * kv + (config.attention_gate ? 4 * n_tokens * 5 * q : 0) +
      (delta.value_heads > 0
           ? 4 * (n_tokens * (8 * delta.channels() + 6 * delta.values() + 12 * delta.value_heads +
                              4 * delta.value_heads * delta.key_dim) +
                  (n_tokens / kernels::kDeltaChunk + kernels::kDeltaChunk + 2) * delta.values() * delta.key_dim)
           : 0);
  const std::int64_t block_work =
      4 * n_tokens * (8 * config.hidden_size + 4 * (q + 2 * kv) + 5 * inner) + attention_work;
  // Of a tape that was kept the backward pass lacks what is in it.
  const std::int64_t taped_work =
      4 * n_tokens * (6 * config.hidden_size + 2 * (q + 2 * kv) + 4 * inner) + attention_work;
  const std::int64_t stride = stream_stride(untaped, n_tokens, config.hidden_size);
  const std::int64_t head =
      core::dtype_size(sizes.dtype) * config.vocab_size * config.hidden_size * (config.tied_embeddings ? 1 : 2);
  // Two models' logits of a slab of rows.
  const std::int64_t logits = 3 * 4 * config.vocab_size *
                              std::min<std::int64_t>(512, std::max<std::int64_t>(1, (24 << 20) / config.vocab_size));
  // Of each number, on the host: in its array, at first, now, at its best, two moments, gradient and its sum; on the
  // device: now, with the sum of a sequence, and the nodes of the tree of sums.
  const auto nodes =
      static_cast<std::int64_t>(std::bit_width(static_cast<std::uint64_t>((sequences.batch + n_ranks - 1) / n_ranks)));
  const PhaseMemory numbers{sizes.n_parameters * 40, sizes.n_parameters * 8 * (nodes + 2)};
  // Of codes that are kept on the host two blocks' are on the device.
  const std::int64_t codes = residence.codes_on_host ? 2 * sizes.code_bytes / n_layers : sizes.code_bytes;
  TuneMemory memory;
  memory.end_to_end.host = numbers.host + mine * stream + stream * ((untaped + stride - 1) / stride) +
                           (residence.codes_on_host ? sizes.code_bytes : 0);
  const std::int64_t stepping =
      assembled + largest + stride * stream + tapes + std::max(untaped > 0 ? block_work : taped_work, logits);
  memory.end_to_end.device = head + codes + numbers.device + stepping;
  memory.teaching = head + codes + 8 * sizes.n_parameters + 2 * loaded + std::min(mine * stream, kTeacherBytes);
  memory.block.host = numbers.host / n_layers + 2 * mine * stream;
  memory.block.device = head + (numbers.device + sizes.code_bytes) / n_layers + assembled + loaded + largest +
                        3 * stream + tape + taped_work;
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
  // Of own blocks weights and two moments. In a step sums of derivatives of all blocks; where a state is kept, in their
  // place and in that of what the step takes, what one block has copied, in a shard, and in its file as that grows, and
  // of codes as much as below.
  std::int64_t all = 0, owned = 0;
  for (int rank = 0; rank < n_ranks; ++rank) {
    const Share share = share_of(config.n_layers, rank, n_ranks);
    std::int64_t its = 0;
    for (std::int64_t layer = share.first; layer < share.last; ++layer)
      its += dense_of_blocks[static_cast<std::size_t>(layer)];
    all += its;
    owned = std::max(owned, its);
  }
  // A share of the stripes that does not begin at a power of two has more parts.
  const std::int64_t sums = n_ranks > 1 && sequences.batch > 1 ? nodes + 1 : nodes;
  memory.weights = memory.end_to_end;
  memory.weights.host += 3 * owned + std::max(sums * all, 9 * dense + 9 * sizes.code_bytes - stepping);
  memory.codes = memory.end_to_end;
  memory.codes.host += *std::max_element(buffers.begin(), buffers.end()) + dense + 3 * largest + 9 * sizes.code_bytes;
  return memory;
}

Residence choose_residence(const model::ModelConfig& config, const TunedSizes& sizes, std::int64_t n_tokens,
                           const Sequences& sequences, int n_ranks, std::int64_t device_bytes) {
  if (device_bytes == 0) return {taped_blocks(config, n_tokens, kTapeBytes), false};
  const std::int64_t usable = device_bytes / 10 * 9;
  const auto without_tapes = [&](bool codes_on_host) {
    return tune_memory(config, sizes, n_tokens, sequences, n_ranks, {0, codes_on_host});
  };
  const TuneMemory resident = without_tapes(false);
  const bool codes_on_host = std::max(resident.end_to_end.device, resident.teaching) > usable;
  // Tapes are made once the teacher has gone.
  return {taped_blocks(config, n_tokens, usable - without_tapes(codes_on_host).end_to_end.device), codes_on_host};
}

}  // namespace voronoi::tune
