#include "calib/collector.h"

#include <algorithm>
#include <cmath>

#include "calib/hessian_tree.h"
#include "core/error.h"

namespace voronoi::calib {
namespace {

constexpr std::int64_t kMaxChunks = 64;

}  // namespace

std::int64_t calibration_chunks(std::int64_t n_sequences) { return std::min(n_sequences, kMaxChunks); }

Collector::Collector(model::Transformer& transformer, backend::Context& context, const comm::Communicator& communicator,
                     const model::Windows& windows)
    : transformer_(transformer), context_(context), communicator_(communicator) {
  const std::int64_t n_chunks = calibration_chunks(windows.count);
  const std::int64_t rank = communicator.rank(), size = communicator.size();
  for (std::int64_t chunk = n_chunks * rank / size; chunk < n_chunks * (rank + 1) / size; ++chunk) {
    const std::int64_t first = windows.count * chunk / n_chunks, last = windows.count * (chunk + 1) / n_chunks;
    const std::span ids(windows.ids.data() + first * windows.context,
                        static_cast<std::size_t>((last - first) * windows.context));
    chunks_.push_back({chunk, transformer.embed(ids, last - first, windows.context)});
  }
}

std::vector<SiteHessian> Collector::collect(const model::BlockWeights& weights, bool advance) {
  const std::vector<model::SiteSpec> sites = model::block_sites(transformer_.config(), weights.layer);
  std::vector<HessianTree> trees;
  std::vector<backend::Array<double>> sums;
  for (const model::SiteSpec& site : sites) {
    trees.emplace_back(site.in_features);
    sums.emplace_back(context_, site.in_features * site.in_features);
  }
  for (Chunk& chunk : chunks_) {
    for (auto& sum : sums) std::fill_n(sum.data(), sum.size(), 0.0);
    const auto observer = [&](const model::SiteSpec& site, std::size_t index, const float* x, std::int64_t n_rows) {
      context_.linalg().gram_accumulate(context_.exec(), n_rows, site.in_features, x, site.in_features,
                                        core::DType::f32, sums[index].data());
    };
    const std::int64_t n_tokens = chunk.hidden.n_sequences * chunk.hidden.n_tokens;
    if (advance) {
      transformer_.run_block(weights, chunk.hidden, observer);
    } else {
      model::HiddenStates copy{chunk.hidden.n_sequences, chunk.hidden.n_tokens,
                               backend::Array<float>(context_, chunk.hidden.values.size())};
      std::copy_n(chunk.hidden.values.data(), chunk.hidden.values.size(), copy.values.data());
      transformer_.run_block(weights, copy, observer);
    }
    for (std::size_t i = 0; i < sites.size(); ++i) trees[i].add_chunk(chunk.id, sums[i].span(), n_tokens);
  }

  std::vector<SiteHessian> result;
  for (std::size_t i = 0; i < sites.size(); ++i) {
    const std::int64_t turn = weights.layer * static_cast<std::int64_t>(sites.size()) + static_cast<std::int64_t>(i);
    const int owner = static_cast<int>(turn % communicator_.size());
    const auto parts = communicator_.gather(trees[i].serialize(), owner);
    if (communicator_.rank() != owner) continue;
    HessianTree total(sites[i].in_features);
    for (const auto& part : parts) total.absorb(part);
    SiteHessian hessian{sites[i].name, total.n(), total.n_tokens(), total.mean()};
    if (!std::all_of(hessian.lower.begin(), hessian.lower.end(), [](float value) { return std::isfinite(value); }))
      throw core::NumericError(
          "block " + std::to_string(weights.layer) + ", input of " + sites[i].name +
          ": activations are not finite or too large; check the model's weights (voronoi inspect)");
    result.push_back(std::move(hessian));
  }
  return result;
}

void Collector::advance(const model::BlockWeights& weights) {
  for (Chunk& chunk : chunks_) transformer_.run_block(weights, chunk.hidden);
}

}  // namespace voronoi::calib
