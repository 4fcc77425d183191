#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "model/rope.h"

namespace voronoi::model {
namespace {

using backend::Array;

// From this many tokens on a batch is one sequence; shorter ones run together up to it. Decided by shape alone.
constexpr std::int64_t kBatchTokens = 256;
// The feed-forward part sees at most this many rows at a time.
constexpr std::int64_t kFeedForwardRows = 2048;
// Floats of logits in memory at a time, and the rows beyond which a larger slab gains no speed.
constexpr std::int64_t kLogitFloats = 24 << 20, kLogitRows = 512;

enum Site : std::size_t { kQkv, kO, kGateUp, kDown };

std::int64_t sequences_per_batch(std::int64_t n_tokens) {
  return std::max<std::int64_t>(1, (2 * kBatchTokens - 1) / n_tokens);
}

std::int64_t product(std::int64_t a, std::int64_t b) {
  const auto result = core::checked_multiply(a, b);
  VORONOI_REQUIRE(result.has_value(), "a number of elements overflows");
  return *result;
}

}  // namespace

struct Transformer::Impl {
  Impl(const WeightSource& weight_source, backend::Context& backend_context)
      : source(weight_source), context(backend_context), config(weight_source.config()) {
    for (TensorSpec& spec : expected_tensors(config)) specs.push_back(std::move(spec));
    for (std::int64_t layer = 0; layer < config.n_layers; ++layer) sites.push_back(block_sites(config, layer));
  }

  const core::Shape& shape_of(const std::string& name) const {
    const auto found =
        std::find_if(specs.begin(), specs.end(), [&](const TensorSpec& spec) { return spec.name == name; });
    VORONOI_REQUIRE(found != specs.end(), "the configuration has no tensor " + name);
    return found->shape;
  }

  Array<float> load(const TensorSpec& spec) const {
    const auto n = core::element_count(spec.shape);
    VORONOI_REQUIRE(n.has_value(), "the size of " + spec.name + " overflows");
    Array<float> array(context, *n);
    if (context.device() == backend::Device::cpu) {
      source.read(spec, array.span());
    } else {
      std::vector<float> staging(static_cast<std::size_t>(*n));
      source.read(spec, staging);
      upload(std::span<const float>(staging), array);
    }
    return array;
  }

  Array<float> load(const std::string& name) const { return load(TensorSpec{name, shape_of(name)}); }

  template <class T>
  void upload(std::span<const T> values, Array<T>& array) const {
    if (!values.empty())
      context.memory().copy_from_host(context.exec(), values.data(), static_cast<std::int64_t>(values.size_bytes()),
                                      array.data());
  }

  template <class T>
  Array<T> to_device(std::span<const T> values) const {
    Array<T> array(context, static_cast<std::int64_t>(values.size()));
    upload(values, array);
    return array;
  }

  /// A work array of at least n elements that lives on for the next call.
  static float* grow(backend::Context& context, Array<float>& array, std::int64_t n) {
    if (array.size() < n) {
      array = Array<float>();
      array = Array<float>(context, n);
    }
    return array.data();
  }

  const Array<float>& embedding_table() {
    if (embedding.empty()) embedding = load("model.embed_tokens.weight");
    return embedding;
  }

  const Array<float>& head_table() {
    if (config.tied_embeddings) return embedding_table();
    if (head.empty()) head = load("lm_head.weight");
    return head;
  }

  const float* rope_rows(std::int64_t n_tokens) {
    if (n_rope_positions < n_tokens) {
      const std::vector<float> table = rope_table(config.rope, config.head_dim, n_tokens);
      rope = to_device(std::span<const float>(table));
      n_rope_positions = n_tokens;
    }
    return rope.data();
  }

  void check_ids(std::span<const std::int32_t> ids) const {
    for (std::size_t i = 0; i < ids.size(); ++i)
      if (ids[i] < 0 || ids[i] >= config.vocab_size)
        throw core::FormatError(source.path(), "token id " + std::to_string(ids[i]) + " at position " +
                                                   std::to_string(i) + " is outside the model's vocabulary of " +
                                                   std::to_string(config.vocab_size) +
                                                   ": use the tokenizer that belongs to this model");
  }

  /// out [n_rows, out_features] = x W^T (+ out when `accumulate`) + bias.
  void linear(const BlockWeights& weights, std::size_t site, std::size_t index, std::int64_t n_rows, const float* x,
              bool accumulate, float* out) const {
    const LinearSpec& spec = sites[static_cast<std::size_t>(weights.layer)][site].linears[index];
    context.linalg().gemm_f32(context.exec(), false, true, n_rows, spec.out_features, spec.in_features, 1.0F, x,
                              spec.in_features, weights.linears[site][index].data(), spec.in_features,
                              accumulate ? 1.0F : 0.0F, out, spec.out_features);
    if (spec.has_bias)
      context.nn().add_bias(context.exec(), n_rows, spec.out_features, weights.biases[site][index].data(), out,
                            spec.out_features);
  }

  void norm(std::int64_t n_rows, std::int64_t dim, const float* x, const Array<float>& weight, float* out) const {
    context.nn().rms_norm(context.exec(), n_rows, dim, x, dim, weight.data(), static_cast<float>(config.norm_eps), out,
                          dim);
  }

  void attention_half(const BlockWeights& weights, std::int64_t n_sequences, std::int64_t n_tokens, float* hidden,
                      const SiteObserver& observer) {
    const std::vector<SiteSpec>& site = sites[static_cast<std::size_t>(weights.layer)];
    const std::int64_t n_rows = n_sequences * n_tokens;
    const std::int64_t q_dim = config.n_heads * config.head_dim, kv_dim = config.n_kv_heads * config.head_dim;
    const auto& exec = context.exec();
    float* normed = grow(context, work_normed, product(n_rows, std::max(config.hidden_size, q_dim)));
    float* q = grow(context, work_wide, product(n_rows, q_dim + 2 * kv_dim));
    float* k = q + n_rows * q_dim;
    float* v = k + n_rows * kv_dim;
    norm(n_rows, config.hidden_size, hidden, weights.input_norm, normed);
    if (observer) observer(site[kQkv], kQkv, normed, n_rows);
    linear(weights, kQkv, 0, n_rows, normed, false, q);
    linear(weights, kQkv, 1, n_rows, normed, false, k);
    linear(weights, kQkv, 2, n_rows, normed, false, v);
    if (config.qk_norm) {
      norm(n_rows * config.n_heads, config.head_dim, q, weights.q_norm, q);
      norm(n_rows * config.n_kv_heads, config.head_dim, k, weights.k_norm, k);
    }
    const float* cos_sin = rope_rows(n_tokens);
    context.nn().rope(exec, n_rows, n_tokens, config.n_heads, config.head_dim, cos_sin, q, q_dim);
    context.nn().rope(exec, n_rows, n_tokens, config.n_kv_heads, config.head_dim, cos_sin, k, kv_dim);
    kernels::AttentionShape shape{};
    shape.n_sequences = n_sequences;
    shape.n_tokens = n_tokens;
    shape.n_heads = config.n_heads;
    shape.n_kv_heads = config.n_kv_heads;
    shape.head_dim = config.head_dim;
    shape.window = config.window.empty() ? 0 : config.window[static_cast<std::size_t>(weights.layer)];
    shape.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)));
    shape.ld_q = shape.ld_out = q_dim;
    shape.ld_kv = kv_dim;
    context.nn().attention(exec, shape, q, k, v, normed);
    if (observer) observer(site[kO], kO, normed, n_rows);
    linear(weights, kO, 0, n_rows, normed, true, hidden);
  }

  void feed_forward_half(const BlockWeights& weights, std::int64_t n_rows, float* hidden,
                         const SiteObserver& observer) {
    const std::vector<SiteSpec>& site = sites[static_cast<std::size_t>(weights.layer)];
    float* normed = grow(context, work_normed, product(n_rows, config.hidden_size));
    float* gate = grow(context, work_wide, product(n_rows, 2 * config.intermediate_size));
    float* up = gate + n_rows * config.intermediate_size;
    norm(n_rows, config.hidden_size, hidden, weights.post_attention_norm, normed);
    if (observer) observer(site[kGateUp], kGateUp, normed, n_rows);
    linear(weights, kGateUp, 0, n_rows, normed, false, gate);
    linear(weights, kGateUp, 1, n_rows, normed, false, up);
    context.nn().swiglu(context.exec(), n_rows * config.intermediate_size, gate, up, gate);
    if (observer) observer(site[kDown], kDown, gate, n_rows);
    linear(weights, kDown, 0, n_rows, gate, true, hidden);
  }

  /// Logits of the hidden rows `rows`, in work_wide: [rows.size(), vocab].
  const float* slab_logits(const HiddenStates& hidden, std::span<const std::int32_t> rows) {
    const auto n_rows = static_cast<std::int64_t>(rows.size());
    const Array<std::int32_t> index = to_device(rows);
    float* normed = grow(context, work_normed, product(n_rows, config.hidden_size));
    float* logits = grow(context, work_wide, product(n_rows, config.vocab_size));
    if (final_norm.empty()) final_norm = load("model.norm.weight");
    // Gathering rows is an embedding whose table is the hidden states.
    context.nn().embed(context.exec(), index.data(), n_rows, config.hidden_size, hidden.values.data(), normed);
    norm(n_rows, config.hidden_size, normed, final_norm, normed);
    context.linalg().gemm_f32(context.exec(), false, true, n_rows, config.vocab_size, config.hidden_size, 1.0F, normed,
                              config.hidden_size, head_table().data(), config.hidden_size, 0.0F, logits,
                              config.vocab_size);
    return logits;
  }

  std::size_t slab_rows() const {
    return static_cast<std::size_t>(std::clamp<std::int64_t>(kLogitFloats / config.vocab_size, 1, kLogitRows));
  }

  void check_hidden(const HiddenStates& hidden) const {
    VORONOI_REQUIRE(
        hidden.n_sequences >= 0 && hidden.n_tokens >= 0 &&
            hidden.values.size() == product(product(hidden.n_sequences, hidden.n_tokens), config.hidden_size),
        "hidden states must be [n_sequences * n_tokens, hidden_size]");
    VORONOI_REQUIRE(product(hidden.n_sequences, hidden.n_tokens) <= std::numeric_limits<std::int32_t>::max(),
                    "rows of hidden states are counted in 32 bits");
  }

  const WeightSource& source;
  backend::Context& context;
  const ModelConfig& config;
  std::vector<TensorSpec> specs;
  std::vector<std::vector<SiteSpec>> sites;  // [layer][site]
  Array<float> embedding, head, final_norm, rope;
  std::int64_t n_rope_positions = 0;
  Array<float> work_normed, work_wide;
};

Transformer::Transformer(const WeightSource& source, backend::Context& context)
    : impl_(std::make_unique<Impl>(source, context)) {}
Transformer::~Transformer() = default;

const ModelConfig& Transformer::config() const { return impl_->config; }

BlockWeights Transformer::load_block(std::int64_t layer) const {
  VORONOI_REQUIRE(layer >= 0 && layer < impl_->config.n_layers, "no such block");
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  BlockWeights weights;
  weights.layer = layer;
  weights.input_norm = impl_->load(prefix + "input_layernorm.weight");
  weights.post_attention_norm = impl_->load(prefix + "post_attention_layernorm.weight");
  if (impl_->config.qk_norm) {
    weights.q_norm = impl_->load(prefix + "self_attn.q_norm.weight");
    weights.k_norm = impl_->load(prefix + "self_attn.k_norm.weight");
  }
  for (const SiteSpec& site : impl_->sites[static_cast<std::size_t>(layer)]) {
    auto& linears = weights.linears.emplace_back();
    auto& biases = weights.biases.emplace_back();
    for (const LinearSpec& linear : site.linears) {
      linears.push_back(impl_->load(TensorSpec{linear.name + ".weight", {linear.out_features, linear.in_features}}));
      biases.push_back(linear.has_bias ? impl_->load(TensorSpec{linear.name + ".bias", {linear.out_features}})
                                       : Array<float>());
    }
  }
  return weights;
}

HiddenStates Transformer::embed(std::span<const std::int32_t> ids, std::int64_t n_sequences, std::int64_t n_tokens) {
  VORONOI_REQUIRE(static_cast<std::int64_t>(ids.size()) == product(n_sequences, n_tokens),
                  "ids must be [n_sequences, n_tokens]");
  impl_->check_ids(ids);
  const auto n_rows = static_cast<std::int64_t>(ids.size());
  HiddenStates hidden{n_sequences, n_tokens, Array<float>(impl_->context, product(n_rows, impl_->config.hidden_size))};
  const Array<std::int32_t> device_ids = impl_->to_device(ids);
  impl_->context.nn().embed(impl_->context.exec(), device_ids.data(), n_rows, impl_->config.hidden_size,
                            impl_->embedding_table().data(), hidden.values.data());
  return hidden;
}

void Transformer::run_block(const BlockWeights& weights, HiddenStates& hidden, const SiteObserver& observer) {
  impl_->check_hidden(hidden);
  if (hidden.values.empty()) return;
  const std::int64_t per_batch = sequences_per_batch(hidden.n_tokens);
  for (std::int64_t s = 0; s < hidden.n_sequences; s += per_batch) {
    const std::int64_t n_sequences = std::min(per_batch, hidden.n_sequences - s),
                       n_rows = n_sequences * hidden.n_tokens;
    float* rows = hidden.values.data() + s * hidden.n_tokens * impl_->config.hidden_size;
    impl_->attention_half(weights, n_sequences, hidden.n_tokens, rows, observer);
    for (std::int64_t r = 0; r < n_rows; r += kFeedForwardRows)
      impl_->feed_forward_half(weights, std::min(kFeedForwardRows, n_rows - r), rows + r * impl_->config.hidden_size,
                               observer);
  }
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
    const float* logits = impl_->slab_logits(hidden, slab);
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
  std::vector<std::int32_t> rows, targets;
  for (std::int64_t s = 0; s < hidden.n_sequences; ++s)
    for (std::int64_t t = 0; t + 1 < hidden.n_tokens; ++t) {
      rows.push_back(static_cast<std::int32_t>(s * hidden.n_tokens + t));
      targets.push_back(ids[static_cast<std::size_t>(rows.back()) + 1]);
    }
  std::vector<double> result(rows.size());
  Array<double> nll(impl_->context, static_cast<std::int64_t>(std::min(impl_->slab_rows(), rows.size())));
  for (std::size_t first = 0; first < rows.size(); first += impl_->slab_rows()) {
    const std::size_t n = std::min(impl_->slab_rows(), rows.size() - first);
    const float* logits = impl_->slab_logits(hidden, std::span<const std::int32_t>(rows).subspan(first, n));
    const Array<std::int32_t> target = impl_->to_device(std::span<const std::int32_t>(targets).subspan(first, n));
    impl_->context.nn().nll(impl_->context.exec(), static_cast<std::int64_t>(n), impl_->config.vocab_size, logits,
                            impl_->config.vocab_size, target.data(), nll.data());
    impl_->context.memory().copy_to_host(impl_->context.exec(), nll.data(),
                                         static_cast<std::int64_t>(n * sizeof(double)), result.data() + first);
  }
  return result;
}

}  // namespace voronoi::model
