// Latent attention: queries, keys and values from vectors of low rank (see LatentConfig).
#include "model/transformer_impl.h"

namespace voronoi::model {

void Transformer::Impl::project_latent(const BlockWeights& weights, std::int64_t n_rows, const float* x,
                                       const QkvParts& to, const SiteObserver& observer, AttentionTape* tape) {
  const LatentConfig& latent = config.latent;
  const std::vector<SiteSpec>& site = block(weights);
  const auto& exec = context.exec();
  const std::int64_t kv_low = latent.kv_rank + latent.rope, wide_head = latent.nope + latent.value,
                     wide = config.n_heads * wide_head, kv_dim = config.n_kv_heads * config.head_dim;
  float* q_low = grow(context, tape == nullptr ? work_split : tape->low, product(n_rows, latent.q_rank + kv_low));
  float* low = q_low + n_rows * latent.q_rank;
  float* normed = grow(context, work_expert, product(n_rows, std::max(latent.q_rank, latent.kv_rank)));
  float* heads = grow(context, work_out, product(n_rows, wide));
  if (latent.q_rank > 0) {
    linear(weights, places.qkv, 0, n_rows, x, false, q_low);
    context.nn().rms_norm(exec, n_rows, latent.q_rank, q_low, latent.q_rank, weights.q_low_norm.data(), kLowNormEps,
                          normed, latent.q_rank);
    if (observer) observer(site[places.q_b], places.q_b, normed, n_rows, {});
    linear(weights, places.q_b, 0, n_rows, normed, false, to.q);
  } else {
    linear(weights, places.qkv, 0, n_rows, x, false, to.q);
  }
  linear(weights, places.qkv, 1, n_rows, x, false, low);
  context.nn().rms_norm(exec, n_rows, latent.kv_rank, low, kv_low, weights.kv_low_norm.data(), kLowNormEps, normed,
                        latent.kv_rank);
  if (observer) observer(site[places.kv_b], places.kv_b, normed, n_rows, {});
  linear(weights, places.kv_b, 0, n_rows, normed, false, heads);
  // Keys: each head's own part, then the one that is turned. Values are narrower than the heads they lie in.
  const std::int64_t dim = config.head_dim;
  context.nn().copy_heads(exec, {n_rows, config.n_heads, latent.nope, wide, wide_head, kv_dim, dim}, heads, to.k);
  context.nn().copy_heads(exec, {n_rows, config.n_heads, latent.rope, kv_low, 0, kv_dim, dim}, low + latent.kv_rank,
                          to.k + latent.nope);
  context.memory().zero(exec, product(product(n_rows, kv_dim), sizeof(float)), to.v);
  context.nn().copy_heads(exec, {n_rows, config.n_heads, latent.value, wide, wide_head, kv_dim, dim},
                          heads + latent.nope, to.v);
}

}  // namespace voronoi::model
