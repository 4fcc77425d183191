#include "model/transformer.h"

#include <algorithm>
#include <limits>

#include "core/work_counts.h"
#include "model/block_norms.h"
#include "model/transformer_impl.h"

namespace voronoi::model {
namespace {

using backend::Array;

// Floats of logits in memory at a time, and the rows beyond which a larger slab gains no speed.
constexpr std::int64_t kLogitFloats = 24 << 20, kLogitRows = 512;

/// The i-th of tapes that are made as they are needed.
template <class Tape>
Tape& place_of(std::vector<Tape>& tapes, std::size_t i) {
  if (i == tapes.size()) tapes.emplace_back();
  return tapes[i];
}

}  // namespace

std::int64_t host_batch(std::int64_t n_tokens) {
  // From this many tokens on a batch is one sequence; shorter ones run together up to twice as many.
  constexpr std::int64_t kBatchTokens = 256;
  return std::max<std::int64_t>(1, (2 * kBatchTokens - 1) / n_tokens);
}

void Transformer::Impl::check_ids(std::span<const std::int32_t> ids) const {
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= config.vocab_size)
      throw core::FormatError(source.path(), "token id " + std::to_string(ids[i]) + " at position " +
                                                 std::to_string(i) + " is outside the model's vocabulary of " +
                                                 std::to_string(config.vocab_size) +
                                                 ": use the tokenizer that belongs to this model");
}

void Transformer::Impl::check_hidden(const HiddenStates& hidden) const {
  VORONOI_REQUIRE(hidden.n_sequences >= 0 && hidden.n_tokens >= 0 &&
                      hidden.values.size() == product(product(hidden.n_sequences, hidden.n_tokens), config.hidden_size),
                  "hidden states must be [n_sequences * n_tokens, hidden_size]");
  VORONOI_REQUIRE(product(hidden.n_sequences, hidden.n_tokens) <= std::numeric_limits<std::int32_t>::max(),
                  "rows of hidden states are counted in 32 bits");
}

Predictions predictions(const HiddenStates& hidden, std::span<const std::int32_t> ids) {
  Predictions result;
  for (std::int64_t s = 0; s < hidden.n_sequences; ++s)
    for (std::int64_t t = 0; t + 1 < hidden.n_tokens; ++t) {
      result.rows.push_back(static_cast<std::int32_t>(s * hidden.n_tokens + t));
      result.targets.push_back(ids[static_cast<std::size_t>(result.rows.back()) + 1]);
    }
  return result;
}

float* Transformer::Impl::slab_logits(const Array<float>& hidden, std::span<const std::int32_t> rows,
                                      Array<float>& logits, const Array<float>* norm_weight, Array<float>* raw) {
  const auto n_rows = static_cast<std::int64_t>(rows.size());
  const Array<std::int32_t> index(context, rows);
  const std::int64_t n = product(n_rows, config.hidden_size);
  float* normed = grow(context, work_normed, n);
  float* gathered = raw == nullptr ? normed : grow(context, *raw, n);
  float* out = grow(context, logits, product(n_rows, config.vocab_size));
  context.linalg().gather_rows_f32(context.exec(), index.data(), n_rows, config.hidden_size, hidden.data(), gathered);
  norm(n_rows, config.hidden_size, gathered, norm_weight == nullptr ? final_norm_weight() : *norm_weight, normed);
  multiply(context, head_table(), n_rows, config.vocab_size, config.hidden_size, normed, false, out);
  if (config.logit_scale != 1)
    context.nn().scale(context.exec(), n_rows * config.vocab_size, static_cast<float>(config.logit_scale), out);
  if (config.logit_softcap > 0)
    context.nn().soft_cap(context.exec(), n_rows * config.vocab_size, static_cast<float>(config.logit_softcap), out);
  return out;
}

std::size_t Transformer::Impl::slab_rows() const {
  return static_cast<std::size_t>(std::clamp<std::int64_t>(kLogitFloats / config.vocab_size, 1, kLogitRows));
}

Transformer::Transformer(const WeightSource& source, backend::Context& context, std::optional<core::DType> dtype,
                         PackedLinears packed)
    : impl_(std::make_unique<Impl>(source, context, dtype, packed)) {}
Transformer::~Transformer() = default;

const ModelConfig& Transformer::config() const { return impl_->config; }

core::DType Transformer::dtype() const { return impl_->dtype; }

BlockWeights Transformer::load_block(std::int64_t layer) const {
  return in_block(layer, [&] { return impl_->load_block(layer, nullptr); });
}

void Transformer::will_load(std::int64_t layer) const {
  const std::string prefix = block_prefix(layer);
  const auto& shapes = impl_->shapes;
  for (auto at = shapes.lower_bound(prefix); at != shapes.end() && at->first.starts_with(prefix); ++at)
    impl_->source.will_read({at->first, at->second});
}

StagedBlock Transformer::stage_block(std::int64_t layer, core::ThreadPool& pool) const {
  return impl_->stage_block(layer, pool);
}

BlockWeights Transformer::upload_block(StagedBlock block) const {
  return in_block(block.layer, [&] { return impl_->load_block(block.layer, &block); });
}

BlockWeights Transformer::load_in_parts(std::int64_t layer, core::ThreadPool& pool) const {
  return in_block(layer, [&] { return impl_->load_block(layer, nullptr, &pool); });
}

Array<float> Transformer::Impl::embed(std::span<const std::int32_t> ids) {
  check_ids(ids);
  const auto n_rows = static_cast<std::int64_t>(ids.size());
  Array<float> values(context, product(n_rows, config.hidden_size));
  const Array<std::int32_t> device_ids(context, ids);
  gather_rows(context, embedding_table(), device_ids.data(), n_rows, config.hidden_size, values.data());
  if (config.embedding_scale != 1)
    context.nn().scale(context.exec(), values.size(), static_cast<float>(config.embedding_scale), values.data());
  return values;
}

HiddenStates Transformer::embed(std::span<const std::int32_t> ids, std::int64_t n_sequences, std::int64_t n_tokens) {
  VORONOI_REQUIRE(static_cast<std::int64_t>(ids.size()) == product(n_sequences, n_tokens),
                  "ids must be [n_sequences, n_tokens]");
  return {n_sequences, n_tokens, impl_->embed(ids)};
}

void Transformer::release_tables() {
  impl_->embedding = {};
  impl_->head = {};
  impl_->final_norm = {};
}

void Transformer::observe_all_experts(bool all) { impl_->all_experts = all; }

void Transformer::run_block(const BlockWeights& weights, HiddenStates& hidden, const SiteObserver& observer,
                            BlockTape* tape) {
  impl_->check_hidden(hidden);
  VORONOI_REQUIRE(tape == nullptr || impl_->dtype != core::DType::f16,
                  "the backward pass takes products in f32 or bf16");
  core::count_work(core::Counted::forward_tokens, hidden.n_sequences * hidden.n_tokens);
  // What is kept of rows that have come so far, at the same place.
  const auto keep = [&](backend::Array<float>& kept, std::int64_t first, std::int64_t n_rows) {
    impl_->context.memory().copy_on_device(impl_->context.exec(), hidden.values.data() + first,
                                           product(product(n_rows, impl_->config.hidden_size), sizeof(float)),
                                           Impl::grow(impl_->context, kept, hidden.values.size()) + first);
  };
  std::size_t n_batches = 0, n_slabs = 0;
  impl_->for_each_batch(weights.layer, hidden, [&](std::int64_t n_sequences, std::int64_t first) {
    const std::int64_t n_rows = n_sequences * hidden.n_tokens;
    float* rows = hidden.values.data() + first;
    AttentionTape* attention = nullptr;
    if (tape != nullptr) {
      keep(tape->entered, first, n_rows);
      attention = &place_of(tape->attention, n_batches++);
    }
    impl_->attention_half(weights, n_sequences, hidden.n_tokens, rows, observer, nullptr, attention);
    if (tape != nullptr) keep(tape->middle, first, n_rows);
    for (std::int64_t r = 0; r < n_rows; r += kFeedForwardRows)
      impl_->feed_forward_half(weights, std::min(kFeedForwardRows, n_rows - r), rows + r * impl_->config.hidden_size,
                               observer, r, tape == nullptr ? nullptr : &place_of(tape->feed_forward, n_slabs++),
                               first / impl_->config.hidden_size + r);
  });
}

KvCache Transformer::make_cache(std::int64_t capacity) const {
  KvCache cache;
  cache.capacity = capacity;
  const ModelConfig& config = impl_->config;
  const DeltaConfig& delta = config.delta;
  const std::int64_t n = product(capacity, config.n_kv_heads * config.head_dim);
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    const bool attends = !is_delta(config, layer);
    cache.keys.emplace_back(impl_->context, attends ? n : (delta.width - 1) * delta.channels());
    cache.values.emplace_back(impl_->context, attends ? n : product(delta.values(), delta.key_dim));
  }
  return cache;
}

void Transformer::extend_block(const BlockWeights& weights, HiddenStates& hidden, KvCache& cache) {
  impl_->check_hidden(hidden);
  VORONOI_REQUIRE(hidden.n_sequences == 1 && cache.n_tokens + hidden.n_tokens <= cache.capacity,
                  "the cache has room for the tokens of one sequence");
  if (hidden.values.empty()) return;
  core::count_work(core::Counted::forward_tokens, hidden.n_tokens);
  float* rows = hidden.values.data();
  in_block(weights.layer, [&] {
    impl_->attention_half(weights, 1, hidden.n_tokens, rows, nullptr, &cache);
    for (std::int64_t r = 0; r < hidden.n_tokens; r += kFeedForwardRows)
      impl_->feed_forward_half(weights, std::min(kFeedForwardRows, hidden.n_tokens - r),
                               rows + r * impl_->config.hidden_size, nullptr, r);
  });
}

std::vector<float> Transformer::logits(const HiddenStates& hidden, std::span<const std::int64_t> rows) {
  impl_->check_hidden(hidden);
  const std::int64_t vocab = impl_->config.vocab_size;
  std::vector<std::int32_t> index;
  for (const std::int64_t row : rows) {
    VORONOI_REQUIRE(row >= 0 && row < hidden.n_sequences * hidden.n_tokens, "no such row of the hidden states");
    index.push_back(static_cast<std::int32_t>(row));
  }
  std::vector<float> result(static_cast<std::size_t>(product(static_cast<std::int64_t>(rows.size()), vocab)));
  for (std::size_t first = 0; first < index.size(); first += impl_->slab_rows()) {
    const auto slab =
        std::span<const std::int32_t>(index).subspan(first, std::min(impl_->slab_rows(), index.size() - first));
    const float* logits = impl_->slab_logits(hidden.values, slab, impl_->work_wide);
    impl_->context.memory().copy_to_host(impl_->context.exec(), logits,
                                         product(static_cast<std::int64_t>(slab.size() * sizeof(float)), vocab),
                                         result.data() + first * static_cast<std::size_t>(vocab));
  }
  return result;
}

std::vector<double> Transformer::next_token_nll(const HiddenStates& hidden, std::span<const std::int32_t> ids) {
  impl_->check_hidden(hidden);
  VORONOI_REQUIRE(static_cast<std::int64_t>(ids.size()) == hidden.n_sequences * hidden.n_tokens,
                  "ids must be [n_sequences, n_tokens]");
  impl_->check_ids(ids);
  const Predictions predicted = predictions(hidden, ids);
  std::vector<double> result(predicted.rows.size());
  Array<double> nll(impl_->context, static_cast<std::int64_t>(std::min(impl_->slab_rows(), predicted.rows.size())));
  const auto rows_a_sequence = static_cast<std::size_t>(hidden.n_tokens) - 1;
  impl_->for_each_slab(predicted.rows.size(), rows_a_sequence, [&](std::size_t first, std::size_t n) {
    const float* logits = impl_->slab_logits(
        hidden.values, std::span<const std::int32_t>(predicted.rows).subspan(first, n), impl_->work_wide);
    const Array<std::int32_t> target(impl_->context,
                                     std::span<const std::int32_t>(predicted.targets).subspan(first, n));
    impl_->context.nn().nll(impl_->context.exec(), static_cast<std::int64_t>(n), impl_->config.vocab_size, logits,
                            impl_->config.vocab_size, target.data(), nll.data());
    impl_->context.memory().copy_to_host(impl_->context.exec(), nll.data(),
                                         static_cast<std::int64_t>(n * sizeof(double)), result.data() + first);
  });
  return result;
}

}  // namespace voronoi::model
