#include "calib/token_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "calib/row_groups.h"
#include "calib/weight_limit.h"
#include "core/error.h"
#include "core/heap.h"
#include "core/stop.h"
#include "core/thread_pool.h"
#include "core/types.h"
#include "model/block_prefetcher.h"

namespace voronoi::calib {

using model::HiddenStates;

std::int64_t guided_group(const model::ModelConfig& config, std::int64_t chunk_tokens) {
  const std::int64_t chunk_bytes =
      config.n_layers * chunk_tokens * config.hidden_size * static_cast<std::int64_t>(sizeof(float));
  return std::max<std::int64_t>(1, kGuidedStreamBytes / chunk_bytes);
}

TokenWeights::TokenWeights(model::Transformer& transformer, backend::Context& context,
                           const comm::Communicator& communicator, const model::Windows& windows, const Shelf& shelf,
                           std::function<bool()> stop, const std::function<void(std::int64_t, std::int64_t)>& told,
                           std::int64_t row_groups)
    : transformer_(transformer),
      context_(context),
      windows_(windows),
      row_groups_(static_cast<std::size_t>(row_groups)),
      stop_(communicator, std::move(stop)) {
  const std::vector<ChunkRange> mine =
      chunks_of_rank(windows.count, windows.context, communicator.rank(), communicator.size());
  std::vector<ChunkRange> missing;
  std::vector<std::size_t> places;
  for (const ChunkRange& chunk : mine) {
    chunks_.push_back(shelf.take ? shelf.take(chunk) : ChunkWeights());
    if (!chunks_.back().empty()) continue;
    missing.push_back(chunk);
    places.push_back(chunks_.size() - 1);
  }
  const std::int64_t most_tokens =
      core::ceil_div(windows.count, calibration_chunks(windows.count, windows.context)) * windows.context;
  const auto group = static_cast<std::size_t>(guided_group(transformer.config(), most_tokens));
  const auto n_groups = static_cast<std::int64_t>((missing.size() + group - 1) / group);
  std::int64_t passes = 0;
  passed_ = [&] { told(++passes, 2 * n_groups * transformer.config().n_layers); };
  try {
    const core::StopScope leaves(context.pool(), [this] { return stop_.asked(); });
    for (std::size_t first = 0; first < missing.size() && !stop_.asked(); first += group) {
      const std::size_t n = std::min(group, missing.size() - first);
      std::vector<ChunkWeights> made(n);
      compute(std::span(missing).subspan(first, n), made);
      if (stop_.asked()) break;
      for (std::size_t i = 0; i < n; ++i) {
        if (shelf.keep) shelf.keep(missing[first + i], made[i]);
        chunks_[places[first + i]] = std::move(made[i]);
      }
    }
  } catch (const core::StopRequested&) {
    // Of the loops within a block: told below, on every rank.
  }
  passed_ = nullptr;
  if (stop_.agreed()) throw core::StopRequested();
  // The streams went, the numbers that were made meanwhile stay.
  core::give_back_free_pages();
  limit(communicator);
}

void TokenWeights::limit(const comm::Communicator& communicator) {
  const model::ModelConfig& config = transformer_.config();
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    const auto place = static_cast<std::size_t>(layer);
    const std::vector<model::SiteSpec> sites = model::block_sites(config, layer);
    const std::size_t n_parts = std::accumulate(
        sites.begin(), sites.end(), std::size_t{0},
        [this](std::size_t sum, const model::SiteSpec& site) { return sum + site.linears.size() * row_groups_; });
    std::vector<WeightCounts> counts(n_parts);
    const auto each = [&](const auto& call) {
      std::size_t at = 0;
      for (std::size_t site = 0; site < sites.size(); ++site)
        for (std::size_t part = 0; part < sites[site].linears.size() * row_groups_; ++part, ++at) call(at, site, part);
    };
    for (const ChunkWeights& chunk : chunks_)
      each([&](std::size_t at, std::size_t site, std::size_t part) { counts[at].add(chunk[place][site][part]); });
    std::vector<WeightLimit> limits(n_parts);
    const auto theirs = communicator.gather(std::as_bytes(std::span(counts)), 0);
    for (std::size_t rank = 1; rank < theirs.size(); ++rank) {
      VORONOI_REQUIRE(theirs[rank].size() == n_parts * sizeof(WeightCounts), "every rank counts every linear");
      std::vector<WeightCounts> more(n_parts);
      std::memcpy(more.data(), theirs[rank].data(), theirs[rank].size());
      for (std::size_t i = 0; i < n_parts; ++i) counts[i].add(more[i]);
    }
    if (communicator.rank() == 0)
      each([&](std::size_t at, std::size_t site, std::size_t) {
        limits[at] = counts[at].limit(wanted_rows(sites[site].in_features, counts[at].rows()));
      });
    communicator.broadcast(std::as_writable_bytes(std::span(limits)), 0);
    for (ChunkWeights& chunk : chunks_)
      each([&](std::size_t at, std::size_t site, std::size_t part) {
        for (float& weight : chunk[place][site][part]) weight = limits[at].of(weight);
      });
  }
}

model::GradientObserver TokenWeights::observer(BlockTokenWeights& of_block) {
  return [this, &of_block](const model::SiteSpec& site, std::size_t site_index, std::size_t linear, std::int64_t n_rows,
                           const float*, const float* dy) {
    const std::int64_t n_out = site.linears[linear].out_features, wanted = row_groups();
    backend::Array<float> sums(context_, n_rows);
    for (std::int64_t group = 0; group < n_row_groups(n_out, wanted); ++group) {
      const std::int64_t first = row_group_begin(n_out, wanted, group),
                         n = row_group_begin(n_out, wanted, group + 1) - first;
      context_.nn_gradient().square_sums(context_.exec(), n_rows, n, dy + first, n_out, sums.data());
      std::vector<float>& weights = of_block[site_index][linear * row_groups_ + static_cast<std::size_t>(group)];
      for (const float sum : sums.to_host()) {
        const float mean = sum / static_cast<float>(n);
        weights.push_back(std::isfinite(mean) ? mean : 0.0F);
      }
    }
  };
}

void TokenWeights::compute(std::span<const ChunkRange> group, std::span<ChunkWeights> weights) {
  const auto n_layers = static_cast<std::size_t>(transformer_.config().n_layers);
  std::vector<HiddenStates> states;
  std::vector<std::vector<std::vector<float>>> entered(n_layers);  // [layer][chunk]
  for (const ChunkRange& chunk : group)
    states.push_back(transformer_.embed(ids_of(windows_, chunk), chunk.n_sequences, windows_.context));
  std::vector<std::int64_t> layers(n_layers);
  std::iota(layers.begin(), layers.end(), 0);
  {
    model::BlockPrefetcher prefetcher(transformer_, context_, layers);
    for (std::size_t layer = 0; layer < n_layers && !stop_.asked(); ++layer) {
      const model::BlockWeights block = prefetcher.next();
      for (HiddenStates& hidden : states) {
        entered[layer].push_back(hidden.values.to_host());
        transformer_.run_block(block, hidden);
      }
      passed_();
    }
  }
  if (stop_.asked()) return;
  for (std::size_t i = 0; i < group.size(); ++i) {
    states[i] = std::move(transformer_.cross_entropy(states[i], ids_of(windows_, group[i]), 1.0F).hidden);
    weights[i].resize(n_layers);
  }
  std::reverse(layers.begin(), layers.end());
  model::BlockPrefetcher prefetcher(transformer_, context_, layers);
  for (const std::int64_t layer : layers) {
    if (stop_.asked()) return;
    const model::BlockWeights block = prefetcher.next();
    const std::vector<model::SiteSpec> sites = model::block_sites(transformer_.config(), layer);
    auto& inputs = entered[static_cast<std::size_t>(layer)];
    for (std::size_t i = 0; i < group.size(); ++i) {
      const HiddenStates input{states[i].n_sequences, states[i].n_tokens,
                               backend::Array<float>(context_, std::span<const float>(inputs[i]))};
      BlockTokenWeights& of_block = weights[i][static_cast<std::size_t>(layer)];
      for (const model::SiteSpec& site : sites) of_block.emplace_back(site.linears.size() * row_groups_);
      transformer_.backward_block(block, input, states[i], nullptr, observer(of_block));
    }
    inputs.clear();
    inputs.shrink_to_fit();
    passed_();
  }
}

}  // namespace voronoi::calib
