// The attention half of a block.
#include <algorithm>
#include <cmath>

#include "model/transformer_impl.h"

namespace voronoi::model {

void Transformer::Impl::linear(const BlockWeights& weights, std::size_t site, std::size_t index, std::int64_t n_rows,
                               const float* x, bool accumulate, float* out) const {
  const LinearSpec& spec = block(weights)[site].linears[index];
  multiply(context, weights.linears[site][index], n_rows, spec.out_features, spec.in_features, x, accumulate, out);
  if (spec.has_bias)
    context.nn().add_bias(context.exec(), n_rows, spec.out_features, weights.biases[site][index].data(), out,
                          spec.out_features);
}

void Transformer::Impl::norm(std::int64_t n_rows, std::int64_t dim, const float* x, const backend::Array<float>& weight,
                             float* out) const {
  context.nn().rms_norm(context.exec(), n_rows, dim, x, dim, weight.data(), static_cast<float>(config.norm_eps), out,
                        dim);
}

void Transformer::Impl::add_output(const BlockWeights& weights, std::size_t site, std::int64_t n_rows, const float* x,
                                   const backend::Array<float>& out_norm, float* hidden, backend::Array<float>* raw) {
  if (out_norm.empty()) {
    linear(weights, site, 0, n_rows, x, true, hidden);
    return;
  }
  const std::int64_t n = product(n_rows, config.hidden_size);
  float* normed = grow(context, work_out, n);
  float* out = raw == nullptr ? normed : grow(context, *raw, n);
  linear(weights, site, 0, n_rows, x, false, out);
  norm(n_rows, config.hidden_size, out, out_norm, normed);
  context.nn().add(context.exec(), n, normed, hidden);
}

AttentionParts Transformer::Impl::attention_parts(std::int64_t n_rows) const {
  const std::int64_t q_dim = config.n_heads * config.head_dim, kv_dim = config.n_kv_heads * config.head_dim;
  if (config.fused_projections) return {q_dim, q_dim + kv_dim, q_dim + 2 * kv_dim, q_dim + 2 * kv_dim};
  return {n_rows * q_dim, n_rows * (q_dim + kv_dim), q_dim, kv_dim};
}

kernels::AttentionShape Transformer::Impl::attention_shape(const BlockWeights& weights, std::int64_t n_sequences,
                                                           std::int64_t n_tokens) const {
  const AttentionParts parts = attention_parts(n_sequences * n_tokens);
  kernels::AttentionShape shape{};
  shape.n_sequences = n_sequences;
  shape.n_tokens = n_tokens;
  shape.n_heads = config.n_heads;
  shape.n_kv_heads = config.n_kv_heads;
  shape.head_dim = config.head_dim;
  shape.window = config.window.empty() ? 0 : config.window[static_cast<std::size_t>(weights.layer)];
  shape.scale =
      static_cast<float>(1.0 / std::sqrt(config.query_pre_attn_scalar.value_or(static_cast<double>(config.head_dim))));
  shape.ld_q = parts.ld_q;
  shape.ld_kv = parts.ld_kv;
  shape.ld_out = config.n_heads * config.head_dim;
  shape.softcap = static_cast<float>(config.attention_softcap);
  shape.compute = dtype;
  return shape;
}

void Transformer::Impl::copy_to_cache(const float* qkv, std::int64_t n_tokens, KvCache& cache, std::size_t layer) {
  const std::int64_t kv_dim = config.n_kv_heads * config.head_dim, group = config.n_heads / config.n_kv_heads;
  // A row holds `group` times the width of k, then k, then v: gathering them is an embedding of pieces of that width.
  const auto gather = [&](std::int64_t piece, backend::Array<float>& to) {
    std::vector<std::int32_t> pieces;
    for (std::int64_t t = 0; t < n_tokens; ++t) pieces.push_back(static_cast<std::int32_t>(t * (group + 2) + piece));
    const backend::Array<std::int32_t> ids(context, std::span<const std::int32_t>(pieces));
    context.linalg().gather_rows_f32(context.exec(), ids.data(), n_tokens, kv_dim, qkv,
                                     to.data() + cache.n_tokens * kv_dim);
  };
  gather(group, cache.keys[layer]);
  gather(group + 1, cache.values[layer]);
}

void Transformer::Impl::project(const BlockWeights& weights, std::int64_t n_rows, const float* hidden, float* normed,
                                const QkvParts& to, const SiteObserver& observer, backend::Array<float>* raw_qk) {
  norm(n_rows, config.hidden_size, hidden, weights.input_norm, normed);
  if (observer) observer(block(weights)[kQkvSite], kQkvSite, normed, n_rows, {});
  linear(weights, kQkvSite, 0, n_rows, normed, false, to.q);
  if (!config.fused_projections) {
    linear(weights, kQkvSite, 1, n_rows, normed, false, to.k);
    linear(weights, kQkvSite, 2, n_rows, normed, false, to.v);
  }
  if (!config.qk_norm) return;
  if (raw_qk != nullptr) {
    const std::int64_t n = product(n_rows, (config.n_heads + config.n_kv_heads) * config.head_dim);
    context.memory().copy_on_device(context.exec(), to.q, n * std::int64_t{sizeof(float)}, grow(context, *raw_qk, n));
  }
  norm(n_rows * config.n_heads, config.head_dim, to.q, weights.q_norm, to.q);
  norm(n_rows * config.n_kv_heads, config.head_dim, to.k, weights.k_norm, to.k);
}

void Transformer::Impl::attention_half(const BlockWeights& weights, std::int64_t n_sequences, std::int64_t n_tokens,
                                       float* hidden, const SiteObserver& observer, KvCache* cache,
                                       AttentionTape* tape) {
  const std::vector<SiteSpec>& site = block(weights);
  const std::int64_t n_rows = n_sequences * n_tokens;
  const std::int64_t q_dim = config.n_heads * config.head_dim, kv_dim = config.n_kv_heads * config.head_dim;
  const auto& exec = context.exec();
  float* normed = grow(context, work_normed, product(n_rows, std::max(config.hidden_size, q_dim)));
  float* q = grow(context, tape == nullptr ? work_wide : tape->qkv, product(n_rows, q_dim + 2 * kv_dim));
  const bool fused = config.fused_projections;
  const AttentionParts parts = attention_parts(n_rows);
  kernels::AttentionShape shape = attention_shape(weights, n_sequences, n_tokens);
  float* k = q + parts.k;
  float* v = q + parts.v;
  const std::int64_t n_past = cache == nullptr ? 0 : cache->n_tokens;
  const auto layer = static_cast<std::size_t>(weights.layer);
  if (cache != nullptr && !fused) {  // they are made where they stay
    k = cache->keys[layer].data() + n_past * kv_dim;
    v = cache->values[layer].data() + n_past * kv_dim;
  }
  project(weights, n_rows, hidden, normed, {q, k, v}, observer, tape == nullptr ? nullptr : &tape->raw_qk);
  const float* cos_sin = rope_rows(n_past + n_tokens) + n_past * config.head_dim;
  context.nn().rope(exec, n_rows, n_tokens, config.n_heads, config.head_dim, cos_sin, q, shape.ld_q);
  context.nn().rope(exec, n_rows, n_tokens, config.n_kv_heads, config.head_dim, cos_sin, k, shape.ld_kv);
  if (cache != nullptr) {
    if (fused) copy_to_cache(q, n_tokens, *cache, layer);
    k = cache->keys[layer].data();
    v = cache->values[layer].data();
    shape.ld_kv = kv_dim;
  }
  float* attended = tape == nullptr ? normed : grow(context, tape->attended, product(n_rows, q_dim));
  if (n_past == 0)
    context.nn().attention(exec, shape, q, k, v, attended);
  else
    context.nn().cached_attention(exec, shape, n_past, q, k, v, attended);
  if (observer) observer(site[kOSite], kOSite, attended, n_rows, {});
  add_output(weights, kOSite, n_rows, attended, weights.attention_out_norm, hidden,
             tape == nullptr ? nullptr : &tape->out);
}

}  // namespace voronoi::model
