#include "calib/footprint.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "calib/collector.h"
#include "calib/row_groups.h"
#include "calib/site_sum.h"
#include "calib/token_weights.h"
#include "core/types.h"
#include "model/attention_flops.h"
#include "model/block_prefetcher.h"

namespace voronoi::calib {
namespace {

// What the allocator holds beyond what is asked for: holes that freed blocks and triangles leave. Seen with
// two blocks of hidden size 768 and six of 512: 4 to 30 % of one rank's, less on two. Whole matrices leave none. Arrays
// of more than half a MiB have pages of their own (kernels/cpu/large_blocks.h): with 64 experts of hidden size 1024,
// 1.6 GiB a block, nothing of this was seen.
constexpr double kHeapSlack = 0.2;
constexpr std::int64_t kMostHeapSlack = std::int64_t{24} << 20;
// An operation of a product in fp64, in those of fp32.
constexpr double kCrossWork = 2;

std::int64_t work_array_bytes(const model::ModelConfig& config, std::int64_t context) {
  const std::int64_t rows = context * model::host_batch(context);
  const std::int64_t q = config.n_heads * config.head_dim, kv = config.n_kv_heads * config.head_dim;
  const std::int64_t normed = rows * std::max(config.hidden_size, q);
  const std::int64_t wide =
      std::max(rows * (q + 2 * kv), std::min(rows, model::kFeedForwardRows) * 2 * config.intermediate_size);
  // Both halves' input, and what latent attention makes heads of.
  const model::LatentConfig& latent = config.latent;
  const std::int64_t kept = rows * (config.parallel_block ? config.hidden_size : 0);
  const std::int64_t low = latent.kv_rank > 0 ? rows * (2 * latent.q_rank + 2 * latent.kv_rank + latent.rope +
                                                        config.n_heads * (latent.nope + latent.value))
                                              : 0;
  // Queries with their gates, and those; what a layer of the delta rule makes of a row.
  const std::int64_t gates = config.attention_gate ? 3 * rows * q : 0;
  const model::DeltaConfig& delta = config.delta;
  const std::int64_t delta_rows =
      delta.value_heads > 0
          ? rows * (2 * (delta.channels() + delta.values()) + 2 * delta.keys() + 4 * delta.value_heads) +
                std::max<std::int64_t>(0, rows * (delta.values() - std::max(config.hidden_size, q)))
          : 0;
  return 4 * (normed + wide + kept + low + gates + delta_rows + context * config.head_dim);
}

/// Of any rank: at most at a time in both trees, and when all chunks are there, in both and in the one that has more.
struct RankNodes {
  std::int64_t most = 0, last = 0, last_of_one = 0;
};
RankNodes rank_nodes(std::int64_t n_sequences, std::int64_t context, int n_ranks, double held_out_share) {
  RankNodes nodes;
  for (int rank = 0; rank < n_ranks; ++rank) {
    const std::vector<ChunkRange> chunks = chunks_of_rank(n_sequences, context, rank, n_ranks);
    if (chunks.empty()) continue;
    const std::int64_t first = chunks.front().id;
    nodes.most = std::max(nodes.most, most_nodes(first, std::ssize(chunks), held_out_share).both());
    const TreeNodes last = tree_nodes(first, chunks.back().id + 1, held_out_share);
    nodes.last = std::max(nodes.last, last.both());
    nodes.last_of_one = std::max({nodes.last_of_one, last.summed, last.held_out});
  }
  return nodes;
}

/// Chunks are sequences of their own.
double attention_work(const model::ModelConfig& config, std::int64_t layer, std::int64_t n_sequences,
                      std::int64_t context) {
  const auto at = static_cast<std::size_t>(layer);
  const std::int64_t window = config.window.empty() ? 0 : config.window[at],
                     wanted = config.chunk.empty() ? 0 : config.chunk[at], chunk = wanted > 0 ? wanted : context;
  const auto of = [&](std::int64_t n_tokens) {
    return model::attention_flops(n_tokens, 0, window, config.n_heads * config.head_dim);
  };
  return static_cast<double>(n_sequences) * (static_cast<double>(context / chunk) * of(chunk) + of(context % chunk));
}

/// What a block's sites add up to.
struct BlockSizes {
  std::int64_t weights = 0;      ///< bytes of the linears in fp32
  std::int64_t square = 0;       ///< elements of the Hessians of one pass, those of linears among them
  std::int64_t inputs = 0;       ///< values that enter its sites, a token; what enters several experts once
  std::int64_t widest = 0;       ///< inputs of the widest site
  std::string site;              ///< its name
  std::int64_t widest_sums = 1;  ///< of its rows
};

BlockSizes block_sizes(const model::ModelConfig& config, std::int64_t layer, std::int64_t chunks_a_rank,
                       HessianKind kind) {
  BlockSizes sizes;
  const std::vector<model::SiteSpec> sites = model::block_sites(config, layer);
  std::vector<std::int64_t> sums;
  for (const model::SiteSpec& site : sites) sums.push_back(sums_of_site(site, kind));
  for (const PassSites& pass :
       divide_into_passes(sites, sums, chunks_a_rank, kind.held_out_share > 0, kind.cross, kHessianBytes)) {
    std::int64_t square = 0;
    for (std::size_t i = pass.first; i < pass.last; ++i)
      square += sums[i] * sites[i].in_features * sites[i].in_features;
    sizes.square = std::max(sizes.square, square);
  }
  if (model::is_mixture(config, layer))
    sizes.inputs += config.hidden_size +
                    (kind.all_experts ? config.mixture.n_experts : config.mixture.top_k) * config.mixture.expert_size;
  for (const model::SiteSpec& site : sites) {
    if (site.expert < 0) sizes.inputs += site.in_features;
    if (site.in_features > sizes.widest) {
      sizes.widest = site.in_features;
      sizes.widest_sums = sums_of_site(site, kind);
      sizes.site = site.name;
    }
    for (const model::LinearSpec& linear : site.linears) sizes.weights += 4 * linear.out_features * linear.in_features;
  }
  return sizes;
}

/// The block that takes the most.
BlockSizes largest_block(const model::ModelConfig& config, std::int64_t chunks_a_rank, HessianKind kind) {
  BlockSizes largest;
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    BlockSizes sizes = block_sizes(config, layer, chunks_a_rank, kind);
    if (8 * sizes.square + sizes.weights > 8 * largest.square + largest.weights) largest = std::move(sizes);
  }
  return largest;
}

std::int64_t largest_tape(const model::ModelConfig& config, std::int64_t n_rows) {
  std::int64_t largest = 0;
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer)
    largest = std::max(largest, model::tape_bytes(config, layer, n_rows));
  return largest;
}

}  // namespace

std::int64_t sums_of_site(const model::SiteSpec& site, HessianKind kind) {
  const bool is_weighed = site.expert < 0 || (!kind.sequential && !kind.all_experts);
  std::int64_t n = 1;
  if (kind.guided && is_weighed)
    for (const model::LinearSpec& linear : site.linears) n += n_row_groups(linear.out_features, kind.row_groups);
  return n;
}

TreeNodes tree_nodes(std::int64_t first, std::int64_t last, double held_out_share) {
  TreeNodes nodes;
  while (first < last) {
    std::int64_t size = first > 0 ? first & -first : std::int64_t{1} << 62;
    while (first + size > last) size /= 2;
    const std::int64_t held_out = n_held_out(first, first + size, held_out_share);
    nodes.summed += held_out < size ? 1 : 0;
    nodes.held_out += held_out > 0 ? 1 : 0;
    first += size;
  }
  return nodes;
}

TreeNodes most_nodes(std::int64_t first_chunk, std::int64_t n_chunks, double held_out_share) {
  TreeNodes most, now;
  for (std::int64_t chunk = first_chunk; chunk < first_chunk + n_chunks; ++chunk) {
    if (is_held_out(chunk, held_out_share))
      most.held_out = std::max(most.held_out, now.held_out + 1);
    else
      most.summed = std::max(most.summed, now.summed + 1);
    now = tree_nodes(first_chunk, chunk + 1, held_out_share);
  }
  return most;
}

BlockWork block_work(const model::ModelConfig& config, std::int64_t layer, std::int64_t n_sequences,
                     std::int64_t context, HessianKind kind) {
  const auto tokens = static_cast<double>(n_sequences) * static_cast<double>(context);
  BlockWork work;
  for (const model::SiteSpec& site : model::block_sites(config, layer)) {
    const auto n = static_cast<double>(site.in_features);
    // An expert sees the tokens routed to it: on average its share of the chosen ones.
    const double rows = site.expert < 0 ? tokens
                                        : tokens * static_cast<double>(config.mixture.top_k) /
                                              static_cast<double>(config.mixture.n_experts);
    const double summed = (kind.all_experts ? tokens : rows) * static_cast<double>(sums_of_site(site, kind)),
                 crossed = kind.cross ? 2 * n * n : 0;
    work.gram += summed * (n * (n + 1) + kCrossWork * crossed);
    work.gram_flops += summed * (n * (n + 1) + crossed);
    // All rows go through gate and up besides, for the inputs of down.
    const bool again = kind.all_experts && site.expert >= 0 && site.name.ends_with("gate_up");
    for (const model::LinearSpec& linear : site.linears)
      work.gemm += 2 * (rows + (again ? tokens : 0)) * static_cast<double>(linear.out_features) * n;
  }
  if (model::is_delta(config, layer)) {
    // Each value of the state is scaled, read by the key, written and read by the query.
    const model::DeltaConfig& delta = config.delta;
    work.gemm +=
        tokens * static_cast<double>(7 * delta.values() * delta.key_dim + 4 * delta.value_heads * config.hidden_size);
  } else {
    work.gemm += attention_work(config, layer, n_sequences, context);
  }
  if (model::is_mixture(config, layer))  // the router
    work.gemm += 2 * tokens * static_cast<double>(config.hidden_size * config.mixture.n_experts);
  if (kind.cross) work.gemm *= 2;
  return work;
}

double weighing_work(const model::ModelConfig& config, std::int64_t n_sequences, std::int64_t context) {
  // Forward; again with a tape, but for what nothing asks of: the last linear of a feed-forward half without a norm
  // behind it; derivatives by inputs.
  double work = 0;
  const auto tokens = static_cast<double>(n_sequences) * static_cast<double>(context);
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    work += 3 * block_work(config, layer, n_sequences, context).gemm;
    if (!model::is_delta(config, layer))
      work += (model::kAttentionBackward - 1) * attention_work(config, layer, n_sequences, context);
    if (!model::is_mixture(config, layer) && config.norms.feed_forward_out.empty())
      work -= 2 * tokens * static_cast<double>(config.hidden_size * config.intermediate_size);
  }
  return work;
}

std::int64_t hessian_bytes(const model::SiteSpec& site, HessianKind kind) {
  const std::int64_t n = site.in_features;
  return (2 * n * (n + 1) + (kind.cross ? 4 * n * n : 0)) * sums_of_site(site, kind) *
         (kind.held_out_share > 0 ? 2 : 1);
}

double sent_share(std::int64_t n_sequences, std::int64_t context, int n_ranks, HessianKind kind) {
  // A node has twice the bytes of the mean that it is a part of; the file has a mean of each tree.
  const std::int64_t n_trees = kind.held_out_share > 0 ? 2 : 1;
  const auto nodes = static_cast<double>(rank_nodes(n_sequences, context, n_ranks, kind.held_out_share).last);
  const double ranks = n_ranks;
  return (2 * nodes / static_cast<double>(n_trees) + 1 / ranks) * (ranks - 1) / ranks;
}

CalibrationMemory calibration_memory(const model::ModelConfig& config, std::int64_t n_sequences, std::int64_t context,
                                     int n_ranks, HessianKind kind, core::DType device_dtype,
                                     std::int64_t stored_size) {
  const std::int64_t chunks = calibration_chunks(n_sequences, context),
                     mine = core::ceil_div(chunks, std::int64_t{n_ranks});
  const std::int64_t chunk_tokens = core::ceil_div(n_sequences, chunks) * context;
  const BlockSizes block = largest_block(config, mine, kind);
  const RankNodes nodes = rank_nodes(n_sequences, context, n_ranks, kind.held_out_share);
  // A node holds a packed triangle and, with a second stream, a whole matrix.
  const std::int64_t node_bytes = (kind.cross ? 12 : 4) * block.square, trees = node_bytes * nodes.most,
                     widest = block.widest * block.widest;
  CalibrationMemory memory;
  // The embedding, in as many bits as it is stored in, and what of it is on its way; the head of guided Hessians, in
  // whose place is a tied one too.
  const std::int64_t values = config.vocab_size * config.hidden_size, embedding = stored_size * values,
                     on_its_way = std::min(model::kTablePartBytes, 4 * values) / 2 * 3, both = embedding + 4 * values,
                     tables = config.tied_embeddings ? 4 * values : both;
  const std::int64_t stream =
      (kind.cross ? 8 : 4) * std::min(n_sequences * context, mine * chunk_tokens) * config.hidden_size;
  // When the stream does not leave the block; and what the other one gives to its sites, kept while this one follows.
  const std::int64_t copied_chunk =
      4 * chunk_tokens * (config.hidden_size + (kind.cross ? config.hidden_size + block.inputs : 0));
  memory.lasting = stream + work_array_bytes(config, context);
  std::int64_t token_weights = 0;
  if (kind.guided) {  // a number a row, linear and group
    std::int64_t linears = 0;
    for (std::int64_t layer = 0; layer < config.n_layers; ++layer)
      for (const model::SiteSpec& site : model::block_sites(config, layer))
        if (site.expert < 0)
          for (const model::LinearSpec& linear : site.linears)
            linears += n_row_groups(linear.out_features, kind.row_groups);
    linears += config.mixture.top_k * 3 * config.n_layers * kind.row_groups;
    token_weights = 4 * mine * chunk_tokens * linears;
    memory.lasting += token_weights;
  }
  memory.every.consider(stream + token_weights + (kind.guided ? tables : embedding) + on_its_way,
                        "embedding the calibration windows");
  // Counterparts of rows, and both as the product of their sum takes them.
  const std::int64_t rows = context * model::host_batch(context);
  const std::int64_t crossing =
      kind.cross ? (4 * std::min(rows, model::kFeedForwardRows) + 16 * std::min(rows, kCrossRows)) * block.widest : 0;
  // The panels that the sums of x x^T are packed into.
  const std::int64_t packed =
      4 * std::min(kernels::kCpuGramValues, std::min(kernels::kCpuGramRows, context) * block.widest);
  const auto slack = std::min(
      kMostHeapSlack,
      static_cast<std::int64_t>(kHeapSlack * static_cast<double>(block.weights + 4 * block.square * nodes.most)));
  memory.every.consider(memory.lasting + block.weights + trees + copied_chunk + packed + crossing + slack,
                        "Hessians of a block (widest input: " + block.site + ")");
  // Summing over ranks: all chunks are in their trees; what is left of every site's tree, slices of the widest one
  // (those that arrive from a rank, twice; nodes of the tree that they enter, and its sum; alone, the sum), and the
  // means so far.
  const std::int64_t widest_node = (kind.cross ? 8 : 4) * widest;
  const auto n_slices = 2 * nodes.last_of_one + std::bit_width(static_cast<unsigned>(n_ranks));
  const std::int64_t slices =
      n_ranks == 1 ? widest_node : core::ceil_div(widest_node * n_slices, std::int64_t{n_ranks});
  const std::int64_t means = (kind.cross ? 6 : 2) * block.square * (kind.held_out_share > 0 ? 2 : 1);
  memory.owner = memory.every;
  memory.owner.consider(memory.lasting + block.weights + node_bytes * nodes.last + slices + means,
                        "summing the Hessian of " + block.site + " over all ranks");
  // A site's file is made while the one before is written, when the trees are gone; the last is still under way when
  // the next block's first chunk is summed.
  const std::int64_t file = (kind.cross ? 6 : 2) * widest * (kind.held_out_share > 0 ? 2 : 1) * block.widest_sums;
  const std::int64_t files = file + std::min(file, kFileBesideBytes);
  memory.owner.consider(memory.lasting + block.weights + means + files, "writing the Hessian of " + block.site);
  memory.owner.consider(memory.lasting + block.weights + node_bytes + copied_chunk + packed + crossing + file,
                        "the Hessian of " + block.site + " on its way to disk");
  const model::PrefetchMemory blocks = model::prefetch_memory(config, device_dtype);
  memory.on_device = {
      memory.lasting + blocks.device + std::max(trees + copied_chunk + crossing, node_bytes * nodes.last + slices),
      "Hessians of a block (widest input: " + block.site + ")"};
  memory.on_device.consider(stream + token_weights + std::min(embedding, core::dtype_size(device_dtype) * values),
                            "embedding the calibration windows");
  if (kind.guided) {
    const std::int64_t group = std::min(mine, guided_group(config, chunk_tokens));
    const std::int64_t states = 4 * group * chunk_tokens * config.hidden_size, streams = states * (config.n_layers + 1);
    const std::int64_t weighing = memory.lasting - stream + 2 * work_array_bytes(config, context) +
                                  largest_tape(config, context * model::host_batch(context));
    memory.weighing.consider(streams + tables + weighing + block.weights, "what tokens count");
    memory.weighing.consider(streams + both, "what tokens count");
    // In fp32, whatever the products of the Hessians are in.
    const model::PrefetchMemory wide = model::prefetch_memory(config, core::DType::f32);
    memory.on_device.consider(states + tables + weighing + wide.device, "what tokens count");
    memory.weighing_on_host = streams + std::max(wide.host, on_its_way);
  }
  memory.every_on_host = std::max(on_its_way, slices + blocks.host);
  memory.owner_on_host = std::max(memory.every_on_host, means + blocks.host + std::max(slices, files));
  return memory;
}

}  // namespace voronoi::calib
