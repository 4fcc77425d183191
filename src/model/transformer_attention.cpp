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
                                   const backend::Array<float>& out_norm, float* hidden) {
  if (out_norm.empty()) {
    linear(weights, site, 0, n_rows, x, true, hidden);
    return;
  }
  const std::int64_t n = product(n_rows, config.hidden_size);
  float* out = grow(context, work_out, n);
  linear(weights, site, 0, n_rows, x, false, out);
  norm(n_rows, config.hidden_size, out, out_norm, out);
  context.nn().add(context.exec(), n, out, hidden);
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

void Transformer::Impl::attention_half(const BlockWeights& weights, std::int64_t n_sequences, std::int64_t n_tokens,
                                       float* hidden, const SiteObserver& observer, KvCache* cache) {
  const std::vector<SiteSpec>& site = block(weights);
  const std::int64_t n_rows = n_sequences * n_tokens;
  const std::int64_t q_dim = config.n_heads * config.head_dim, kv_dim = config.n_kv_heads * config.head_dim;
  const auto& exec = context.exec();
  float* normed = grow(context, work_normed, product(n_rows, std::max(config.hidden_size, q_dim)));
  float* q = grow(context, work_wide, product(n_rows, q_dim + 2 * kv_dim));
  // Three matrices one after the other, or the columns of one.
  const bool fused = config.fused_projections;
  float* k = q + (fused ? 1 : n_rows) * q_dim;
  float* v = k + (fused ? 1 : n_rows) * kv_dim;
  const std::int64_t ld_q = fused ? q_dim + 2 * kv_dim : q_dim;
  std::int64_t ld_kv = fused ? ld_q : kv_dim;
  const std::int64_t n_past = cache == nullptr ? 0 : cache->n_tokens;
  const auto layer = static_cast<std::size_t>(weights.layer);
  if (cache != nullptr && !fused) {  // they are made where they stay
    k = cache->keys[layer].data() + n_past * kv_dim;
    v = cache->values[layer].data() + n_past * kv_dim;
  }
  norm(n_rows, config.hidden_size, hidden, weights.input_norm, normed);
  if (observer) observer(site[kQkvSite], kQkvSite, normed, n_rows);
  linear(weights, kQkvSite, 0, n_rows, normed, false, q);
  if (!fused) {
    linear(weights, kQkvSite, 1, n_rows, normed, false, k);
    linear(weights, kQkvSite, 2, n_rows, normed, false, v);
  }
  if (config.qk_norm) {
    norm(n_rows * config.n_heads, config.head_dim, q, weights.q_norm, q);
    norm(n_rows * config.n_kv_heads, config.head_dim, k, weights.k_norm, k);
  }
  const float* cos_sin = rope_rows(n_past + n_tokens) + n_past * config.head_dim;
  context.nn().rope(exec, n_rows, n_tokens, config.n_heads, config.head_dim, cos_sin, q, ld_q);
  context.nn().rope(exec, n_rows, n_tokens, config.n_kv_heads, config.head_dim, cos_sin, k, ld_kv);
  kernels::AttentionShape shape{};
  shape.n_sequences = n_sequences;
  shape.n_tokens = n_tokens;
  shape.n_heads = config.n_heads;
  shape.n_kv_heads = config.n_kv_heads;
  shape.head_dim = config.head_dim;
  shape.window = config.window.empty() ? 0 : config.window[static_cast<std::size_t>(weights.layer)];
  shape.scale =
      static_cast<float>(1.0 / std::sqrt(config.query_pre_attn_scalar.value_or(static_cast<double>(config.head_dim))));
  shape.softcap = static_cast<float>(config.attention_softcap);
  shape.compute = dtype;
  if (cache != nullptr) {
    if (fused) copy_to_cache(q, n_tokens, *cache, layer);
    k = cache->keys[layer].data();
    v = cache->values[layer].data();
    ld_kv = kv_dim;
  }
  shape.ld_q = ld_q;
  shape.ld_kv = ld_kv;
  shape.ld_out = q_dim;
  if (n_past == 0)
    context.nn().attention(exec, shape, q, k, v, normed);
  else
    context.nn().cached_attention(exec, shape, n_past, q, k, v, normed);
  if (observer) observer(site[kOSite], kOSite, normed, n_rows);
  add_output(weights, kOSite, n_rows, normed, weights.attention_out_norm, hidden);
}

}  // namespace voronoi::model
