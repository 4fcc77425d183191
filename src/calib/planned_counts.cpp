#include "calib/planned_counts.h"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <vector>

#include "calib/collector.h"
#include "calib/rank_sums.h"
#include "calib/token_weights.h"
#include "calib/weight_limit.h"
#include "core/types.h"
#include "model/transformer.h"

namespace voronoi::calib {
namespace {

using core::Counted;

double tokens_of(const Calibrated& of) { return static_cast<double>(of.n_sequences) * static_cast<double>(of.context); }

/// Ranks that have windows.
double working_ranks(const Calibrated& of) {
  return static_cast<double>(std::min<std::int64_t>(of.n_ranks, calibration_chunks(of.n_sequences, of.context)));
}

/// Of all ranks: nodes of a tree as they are sent, those with values, and the ranks that have values.
struct AllNodes {
  double all = 0, summed = 0, held_out = 0;
};
AllNodes nodes_of(const Calibrated& of) {
  AllNodes nodes;
  for (int rank = 0; rank < of.n_ranks; ++rank) {
    const std::vector<ChunkRange> chunks = chunks_of_rank(of.n_sequences, of.context, rank, of.n_ranks);
    if (chunks.empty()) continue;
    const std::int64_t first = chunks.front().id, last = chunks.back().id + 1;
    const TreeNodes valued = tree_nodes(first, last, of.kind.held_out_share);
    nodes.all += static_cast<double>(tree_nodes(first, last, 0).summed);
    nodes.summed += static_cast<double>(valued.summed);
    nodes.held_out += static_cast<double>(valued.held_out);
  }
  return nodes;
}

/// What RankSums::mean() sends of a tree: headers to all, slices of nodes to their ranks, slices of the mean to its
/// owner. n_divided: values of the mean; behind: doubles beside them, which the last rank has.
double mean_bytes(const Calibrated& of, double n_nodes, double n_valued, double n_divided, double behind) {
  const double ranks = of.n_ranks, others = ranks - 1;
  double bytes = n_nodes * static_cast<double>(RankSums::kHeaderBytes) * others;
  if (n_valued > 0) bytes += (n_valued * 8 * (n_divided + behind) + 4 * n_divided + 8 * behind) * others / ranks;
  return bytes;
}

}  // namespace

std::vector<BlockElements> block_elements(const model::ModelConfig& config) {
  constexpr std::string_view kBlocks = "model.layers.";
  std::vector<BlockElements> blocks(static_cast<std::size_t>(config.n_layers));
  for (const model::TensorSpec& tensor : model::expected_tensors(config)) {
    if (!tensor.name.starts_with(kBlocks)) continue;
    std::size_t layer = 0;
    std::from_chars(tensor.name.data() + kBlocks.size(), tensor.name.data() + tensor.name.size(), layer);
    blocks.at(layer).others += static_cast<double>(core::element_count(tensor.shape).value_or(0));
  }
  for (std::size_t layer = 0; layer < blocks.size(); ++layer) {
    for (const model::SiteSpec& site : model::block_sites(config, static_cast<std::int64_t>(layer)))
      for (const model::LinearSpec& linear : site.linears)
        blocks[layer].linears += static_cast<double>(linear.out_features) * static_cast<double>(linear.in_features);
    blocks[layer].others -= blocks[layer].linears;
  }
  return blocks;
}

core::WorkCounts weighing_counts(const Calibrated& of) {
  const model::ModelConfig& config = of.config;
  core::WorkCounts counts;
  const double tokens = tokens_of(of), layers = static_cast<double>(config.n_layers);
  counts[Counted::forward_tokens] = counts[Counted::backward_tokens] = tokens * layers;
  counts[Counted::gemm_flops] = weighing_work(config, of.n_sequences, of.context);
  // Of predicted tokens: logits, and the derivative by what entered the head.
  const double predicted = static_cast<double>(of.n_sequences) * static_cast<double>(of.context - 1),
               head = static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size);
  counts[Counted::gemm_flops] += 2 * 2 * predicted * head;

  const std::int64_t chunk_tokens =
      core::ceil_div(of.n_sequences, calibration_chunks(of.n_sequences, of.context)) * of.context;
  const std::int64_t group = guided_group(config, chunk_tokens);
  double groups = 0;  // of all ranks
  for (int rank = 0; rank < of.n_ranks; ++rank)
    groups += static_cast<double>(
        core::ceil_div(std::ssize(chunks_of_rank(of.n_sequences, of.context, rank, of.n_ranks)), group));
  double elements = 0, linears = 0;
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    const BlockElements& block = of.blocks[static_cast<std::size_t>(layer)];
    elements += 2 * groups * (block.linears + block.others);
    for (const model::SiteSpec& site : model::block_sites(config, layer))
      linears += static_cast<double>(std::ssize(site.linears) * std::max<std::int64_t>(1, of.kind.row_groups));
  }
  elements += working_ranks(of) * (static_cast<double>(config.hidden_size) + (config.tied_embeddings ? 0 : head));
  counts[Counted::model_bytes] = of.bytes_a_weight * elements;
  // Counts of weights to rank 0, limits back.
  counts[Counted::sent_bytes] =
      linears * static_cast<double>(sizeof(WeightCounts) + sizeof(WeightLimit)) * static_cast<double>(of.n_ranks - 1);
  return counts;
}

core::WorkCounts embedding_counts(const Calibrated& of) {
  core::WorkCounts counts;
  counts[Counted::model_bytes] = of.bytes_a_weight * working_ranks(of) * static_cast<double>(of.config.vocab_size) *
                                 static_cast<double>(of.config.hidden_size);
  return counts;
}

core::WorkCounts collecting_counts(const Calibrated& of, std::int64_t layer) {
  core::WorkCounts counts;
  const std::vector<model::SiteSpec> sites = model::block_sites(of.config, layer);
  std::vector<std::int64_t> sums;
  for (const model::SiteSpec& site : sites) sums.push_back(sums_of_site(site, of.kind));
  const std::int64_t chunks_a_rank =
      core::ceil_div(calibration_chunks(of.n_sequences, of.context), std::int64_t{of.n_ranks});
  const auto passes = static_cast<double>(
      divide_into_passes(sites, sums, chunks_a_rank, of.kind.held_out_share > 0, of.kind.cross, kHessianBytes).size());
  const BlockWork work = block_work(of.config, layer, of.n_sequences, of.context, of.kind);
  counts[Counted::forward_tokens] = tokens_of(of) * passes * (of.kind.cross ? 2 : 1);
  counts[Counted::gemm_flops] = work.gemm * passes;
  counts[Counted::gram_flops] = work.gram_flops;
  const BlockElements& block = of.blocks[static_cast<std::size_t>(layer)];
  counts[Counted::model_bytes] = of.bytes_a_weight * (block.linears + block.others) * of.n_ranks;
  const AllNodes nodes = nodes_of(of);
  for (std::size_t i = 0; i < sites.size(); ++i) {
    const auto n = static_cast<double>(sites[i].in_features), triangle = n * (n + 1) / 2;
    double bytes =
        mean_bytes(of, nodes.all, nodes.summed, triangle, 2) + mean_bytes(of, nodes.all, nodes.held_out, triangle, 2);
    if (of.kind.cross)
      bytes += mean_bytes(of, nodes.all, nodes.summed, n * n, 0) + mean_bytes(of, nodes.all, nodes.held_out, n * n, 0);
    counts[Counted::sent_bytes] += static_cast<double>(sums[i]) * bytes;
  }
  return counts;
}

core::WorkCounts leaving_counts(const Calibrated& of, std::int64_t layer) {
  core::WorkCounts counts;
  counts[Counted::forward_tokens] = tokens_of(of);
  counts[Counted::gemm_flops] = block_work(of.config, layer, of.n_sequences, of.context).gemm;
  counts[Counted::model_bytes] = of.bytes_a_weight * of.blocks[static_cast<std::size_t>(layer)].others * of.n_ranks;
  return counts;
}

}  // namespace voronoi::calib
