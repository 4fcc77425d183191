// The attention half of a block.
#include <algorithm>
#include <utility>

#include "core/work_counts.h"
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
  const auto kernel = config.norm_kind == NormKind::rms ? context.nn().rms_norm : context.nn().layer_norm;
  kernel(context.exec(), n_rows, dim, x, dim, weight.data(), static_cast<float>(config.norm_eps), out, dim);
}

void Transformer::Impl::norm_gradient(std::int64_t n_rows, std::int64_t dim, const float* x, const float* weight,
                                      const float* d_out, bool accumulate, float* dx, float* d_weight) const {
  const kernels::NnGradientKernels& kernels = context.nn_gradient();
  const auto kernel = config.norm_kind == NormKind::rms ? kernels.rms_norm : kernels.layer_norm;
  kernel(context.exec(), n_rows, dim, x, dim, weight, static_cast<float>(config.norm_eps), d_out, dim, accumulate, dx,
         dim, d_weight);
}

const float* Transformer::Impl::half_input(std::int64_t n_rows, const float* hidden,
                                           const backend::Array<float>& weight, float* normed) const {
  if (weight.empty()) return hidden;
  norm(n_rows, config.hidden_size, hidden, weight, normed);
  return normed;
}

void Transformer::Impl::add_output(const BlockWeights& weights, std::size_t site, std::int64_t n_rows, const float* x,
                                   const backend::Array<float>& out_norm, float* hidden, backend::Array<float>* raw) {
  if (out_norm.empty() && config.residual_scale == 1) {
    linear(weights, site, 0, n_rows, x, true, hidden);
    return;
  }
  const std::int64_t n = product(n_rows, config.hidden_size);
  float* added = grow(context, work_out, n);
  float* out = raw == nullptr || out_norm.empty() ? added : grow(context, *raw, n);
  linear(weights, site, 0, n_rows, x, false, out);
  if (!out_norm.empty()) norm(n_rows, config.hidden_size, out, out_norm, added);
  if (config.residual_scale != 1)
    context.nn().scale(context.exec(), n, static_cast<float>(config.residual_scale), added);
  context.nn().add(context.exec(), n, added, hidden);
}

AttentionParts Transformer::Impl::attention_parts(std::int64_t n_rows) const {
  const std::int64_t q_dim = config.n_heads * config.head_dim, kv_dim = config.n_kv_heads * config.head_dim;
  if (config.fused_qkv) return {q_dim, q_dim + kv_dim, q_dim + 2 * kv_dim, q_dim + 2 * kv_dim};
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
  shape.scale = static_cast<float>(config.attention_scale);
  shape.ld_q = parts.ld_q;
  shape.ld_kv = parts.ld_kv;
  shape.ld_out = config.n_heads * config.head_dim;
  shape.softcap = static_cast<float>(config.attention_softcap);
  shape.sinks = weights.sinks.empty() ? nullptr : weights.sinks.data();
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
                                const QkvParts& to, const SiteObserver& observer, AttentionTape* tape) {
  const float* x = half_input(n_rows, hidden, weights.input_norm, normed);
  if (config.parallel_block) {
    const std::int64_t n = product(n_rows, config.hidden_size);
    context.memory().copy_on_device(context.exec(), x, n * std::int64_t{sizeof(float)},
                                    grow(context, work_parallel, n));
  }
  if (observer) observer(block(weights)[places.qkv], places.qkv, x, n_rows, {});
  if (config.latent.kv_rank > 0) return project_latent(weights, n_rows, x, to, observer, tape);
  if (config.attention_gate)
    project_gated_queries(weights, n_rows, x, to.q, tape);
  else
    linear(weights, places.qkv, 0, n_rows, x, false, to.q);
  if (!config.fused_qkv) {
    linear(weights, places.qkv, 1, n_rows, x, false, to.k);
    linear(weights, places.qkv, 2, n_rows, x, false, to.v);
  }
  if (weights.q_norm.empty()) return;
  const std::int64_t q_dim = config.n_heads * config.head_dim, kv_dim = config.n_kv_heads * config.head_dim;
  if (tape != nullptr) {
    const std::int64_t n = product(n_rows, q_dim + kv_dim);
    context.memory().copy_on_device(context.exec(), to.q, n * std::int64_t{sizeof(float)},
                                    grow(context, tape->raw_qk, n));
  }
  const std::int64_t q_width = weights.q_norm.size(), k_width = weights.k_norm.size();
  norm(n_rows * (q_dim / q_width), q_width, to.q, weights.q_norm, to.q);
  norm(n_rows * (kv_dim / k_width), k_width, to.k, weights.k_norm, to.k);
}

void Transformer::Impl::project_gated_queries(const BlockWeights& weights, std::int64_t n_rows, const float* x,
                                              float* q, AttentionTape* tape) {
  const std::int64_t dim = config.head_dim, n_heads = config.n_heads, n = product(n_rows, n_heads * dim);
  float* both = grow(context, work_split, product(n, 2));
  linear(weights, places.qkv, 0, n_rows, x, false, both);
  const kernels::HeadParts parts{n_rows, n_heads, dim, 2 * n_heads * dim, 2 * dim, n_heads * dim, dim};
  context.nn().copy_heads(context.exec(), parts, both, q);
  context.nn().copy_heads(context.exec(), parts, both + dim,
                          grow(context, tape == nullptr ? work_gate : tape->gate, n));
}

const float* Transformer::Impl::attention_values(std::int64_t n_rows, const float* attended, const float* gate) {
  const std::int64_t value = config.latent.value, dim = config.head_dim, n_heads = config.n_heads;
  if (config.attention_gate) {
    const std::int64_t n = product(n_rows, n_heads * dim);
    float* values = grow(context, work_split, n);
    context.delta_rule().sigmoid_gate(context.exec(), n, gate, attended, values);
    return values;
  }
  if (config.latent.kv_rank == 0 || value == dim) return attended;
  float* values = grow(context, work_split, product(n_rows, n_heads * value));
  context.nn().copy_heads(context.exec(), {n_rows, n_heads, value, n_heads * dim, dim, n_heads * value, value},
                          attended, values);
  return values;
}

void Transformer::Impl::attention_half(const BlockWeights& weights, std::int64_t n_sequences, std::int64_t n_tokens,
                                       float* hidden, const SiteObserver& observer, KvCache* cache,
                                       AttentionTape* tape) {
  if (is_delta(config, weights.layer)) return delta_half(weights, n_sequences, n_tokens, hidden, observer, cache, tape);
  const std::vector<SiteSpec>& site = block(weights);
  const std::int64_t n_rows = n_sequences * n_tokens;
  const std::int64_t q_dim = config.n_heads * config.head_dim, kv_dim = config.n_kv_heads * config.head_dim;
  const kernels::NnKernels& nn = context.nn();
  float* normed = grow(context, work_normed, product(n_rows, std::max(config.hidden_size, q_dim)));
  float* q = grow(context, tape == nullptr ? work_wide : tape->qkv, product(n_rows, q_dim + 2 * kv_dim));
  const AttentionParts parts = attention_parts(n_rows);
  kernels::AttentionShape shape = attention_shape(weights, n_sequences, n_tokens);
  float* k = q + parts.k;
  float* v = q + parts.v;
  const std::int64_t n_past = cache == nullptr ? 0 : cache->n_tokens, length = n_past + n_tokens;
  const auto layer = static_cast<std::size_t>(weights.layer);
  if (cache != nullptr && !config.fused_qkv) {  // they are made where they stay
    k = cache->keys[layer].data() + n_past * kv_dim;
    v = cache->values[layer].data() + n_past * kv_dim;
  }
  project(weights, n_rows, hidden, normed, {q, k, v}, observer, tape);
  const Turn turning = turn_of(weights.layer, length, length);
  turn(nn.rope, turning, n_rows, n_tokens, n_past, config.n_heads, q, shape.ld_q);
  if (turning.keys) turn(nn.rope, turning, n_rows, n_tokens, n_past, config.n_kv_heads, k, shape.ld_kv);
  if (cache != nullptr) {
    if (config.fused_qkv) copy_to_cache(q, n_tokens, *cache, layer);
    k = cache->keys[layer].data();
    v = cache->values[layer].data();
    shape.ld_kv = kv_dim;
  }
  float* attended = tape == nullptr ? normed : grow(context, tape->attended, product(n_rows, q_dim));
  shape.n_past = n_past;
  for_each_chunk(shape, chunk_of(weights), [&](kernels::AttentionShape piece, std::int64_t row, std::int64_t key) {
    const float *queries = q + row * shape.ld_q, *keys = k + key * shape.ld_kv, *values = v + key * shape.ld_kv;
    float* out = attended + row * shape.ld_out;
    core::count_work(core::Counted::gemm_flops, piece_flops(piece));
    const std::int64_t before = std::exchange(piece.n_past, 0);
    if (before == 0)
      nn.attention(context.exec(), piece, queries, keys, values, out);
    else
      nn.cached_attention(context.exec(), piece, before, queries, keys, values, out);
  });
  const float* x = attention_values(n_rows, attended, tape == nullptr ? work_gate.data() : tape->gate.data());
  if (observer) observer(site[places.o], places.o, x, n_rows, {});
  add_output(weights, places.o, n_rows, x, weights.attention_out_norm, hidden, tape == nullptr ? nullptr : &tape->out);
}

}  // namespace voronoi::model
