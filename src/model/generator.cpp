#include "model/generator.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "model/rope.h"

namespace voronoi::model {
namespace {

// Behind others: what attention over a cache and products with packed weights are made for.
constexpr std::size_t kTokensAtOnce = 16;

}  // namespace

Generator::Generator(const WeightSource& source, backend::Context& context, std::optional<core::DType> dtype,
                     std::int64_t capacity)
    : transformer_(source, context, dtype, PackedLinears::keep), cache_(transformer_.make_cache(capacity)) {
  for (std::int64_t layer = 0; layer < source.config().n_layers; ++layer)
    blocks_.push_back(transformer_.load_block(layer));
}

std::vector<float> Generator::feed(std::span<const std::int32_t> ids) {
  VORONOI_REQUIRE(!ids.empty(), "a token is wanted");
  VORONOI_REQUIRE(cache_.n_tokens + std::ssize(ids) <= cache_.capacity, "the cache has room for the tokens");
  std::vector<float> logits;
  const RopeConfig& rope = transformer_.config().rope;
  const auto before = std::ssize(fed_);
  fed_.insert(fed_.end(), ids.begin(), ids.end());
  if (before > 0 && rope_kind(rope, before) != rope_kind(rope, std::ssize(fed_))) {
    cache_.n_tokens = 0;
    ids = fed_;
  }
  // The first tokens all at once; behind them a few at a time.
  while (!ids.empty()) {
    const std::size_t limit = cache_.n_tokens == 0 ? ids.size() : kTokensAtOnce;
    const std::span<const std::int32_t> part = ids.first(std::min(limit, ids.size()));
    ids = ids.subspan(part.size());
    const auto n = static_cast<std::int64_t>(part.size());
    HiddenStates hidden = transformer_.embed(part, 1, n);
    for (const BlockWeights& block : blocks_) transformer_.extend_block(block, hidden, cache_);
    cache_.n_tokens += n;
    if (ids.empty()) logits = transformer_.logits(hidden, std::vector<std::int64_t>{n - 1});
  }
  return logits;
}

std::int32_t pick_token(std::span<const float> logits, double temperature, double place) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (best == logits.end() || !std::all_of(logits.begin(), logits.end(), [](float v) { return std::isfinite(v); }))
    throw core::NumericError("the model's logits are not finite: its weights or their quantization are damaged");
  if (temperature == 0) return static_cast<std::int32_t>(best - logits.begin());
  const auto share = [&](float logit) {
    return std::exp((static_cast<double>(logit) - static_cast<double>(*best)) / temperature);
  };
  double total = 0;
  for (const float logit : logits) total += share(logit);
  double left = place * total;
  for (std::size_t id = 0; id < logits.size(); ++id) {
    left -= share(logits[id]);
    if (left < 0) return static_cast<std::int32_t>(id);
  }
  return static_cast<std::int32_t>(best - logits.begin());  // rounding only
}

}  // namespace voronoi::model
