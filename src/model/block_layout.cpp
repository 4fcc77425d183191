// The linears and tensors of a model, from its configuration.
#include <fmt/format.h>

#include "model/block_norms.h"
#include "model/config.h"
#include "model/each_linear.h"

namespace voronoi::model {
namespace {

/// A feed-forward part's two sites: module.gate and module.up on its input, module.down on their product.
struct FeedForward {
  std::string site_prefix, module, gate, up, down;
  std::int64_t inner = 0, expert = -1;
  bool has_bias = false;
};

void add_feed_forward(const ModelConfig& config, const FeedForward& part, std::vector<SiteSpec>& sites) {
  const std::int64_t hidden = config.hidden_size;
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return LinearSpec{part.module + name, out, in, part.has_bias};
  };
  SiteSpec gate_up{part.site_prefix + "gate_up", hidden, {}, part.expert};
  if (config.fused_gate_up)
    gate_up.linears = {linear("gate_up_proj", 2 * part.inner, hidden)};
  else
    gate_up.linears = {linear(part.gate, part.inner, hidden), linear(part.up, part.inner, hidden)};
  sites.push_back(std::move(gate_up));
  sites.push_back({part.site_prefix + "down", part.inner, {linear(part.down, hidden, part.inner)}, part.expert});
}

/// Sites of latent attention: see LatentConfig.
std::vector<SiteSpec> latent_sites(const ModelConfig& config, const std::string& attention) {
  const LatentConfig& latent = config.latent;
  const std::int64_t hidden = config.hidden_size, n_heads = config.n_heads, q = n_heads * (latent.nope + latent.rope);
  const bool low_q = latent.q_rank > 0;
  SiteSpec low{"qkv", hidden, {}};
  if (low_q)
    low.linears.push_back({attention + "q_a_proj", latent.q_rank, hidden, config.qkv_bias});
  else
    low.linears.push_back({attention + "q_proj", q, hidden, false});
  low.linears.push_back({attention + "kv_a_proj_with_mqa", latent.kv_rank + latent.rope, hidden, config.qkv_bias});
  std::vector<SiteSpec> sites{std::move(low)};
  if (low_q) sites.push_back({"q_b", latent.q_rank, {{attention + "q_b_proj", q, latent.q_rank, false}}});
  sites.push_back({"kv_b",
                   latent.kv_rank,
                   {{attention + "kv_b_proj", n_heads * (latent.nope + latent.value), latent.kv_rank, false}}});
  const std::int64_t values = n_heads * latent.value;
  sites.push_back({"o", values, {{attention + "o_proj", hidden, values, config.o_bias}}});
  return sites;
}

std::vector<SiteSpec> delta_sites(const ModelConfig& config, const std::string& module) {
  const DeltaConfig& delta = config.delta;
  const std::int64_t hidden = config.hidden_size, joined = 2 * delta.keys() + 2 * delta.values();
  return {{"linear.in", hidden, {{module + "in_proj_qkvz", joined, hidden, false}}},
          {"linear.out", delta.values(), {{module + "out_proj", hidden, delta.values(), false}}}};
}

std::vector<SiteSpec> attention_sites(const ModelConfig& config, const std::string& attention) {
  if (config.latent.kv_rank > 0) return latent_sites(config, attention);
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t q = config.n_heads * config.head_dim, kv = config.n_kv_heads * config.head_dim;
  SiteSpec qkv{"qkv", hidden, {}};
  if (config.fused_qkv)
    qkv.linears = {{attention + "qkv_proj", q + 2 * kv, hidden, config.qkv_bias}};
  else
    qkv.linears = {{attention + "q_proj", config.attention_gate ? 2 * q : q, hidden, config.qkv_bias},
                   {attention + "k_proj", kv, hidden, config.qkv_bias},
                   {attention + "v_proj", kv, hidden, config.qkv_bias}};
  return {std::move(qkv), {"o", q, {{attention + "o_proj", hidden, q, config.o_bias}}}};
}

}  // namespace

SitePlaces site_places(const ModelConfig& config) {
  SitePlaces places;
  if (config.latent.kv_rank == 0) {
    places.o = 1;
  } else {
    places.q_b = config.latent.q_rank > 0 ? 1 : 0;
    places.kv_b = places.q_b + 1;
    places.o = places.kv_b + 1;
  }
  places.gate_up = places.o + 1;
  return places;
}

bool is_mixture(const ModelConfig& config, std::int64_t layer) {
  return config.mixture.n_experts > 0 && config.mixture.layers.at(static_cast<std::size_t>(layer));
}

bool is_delta(const ModelConfig& config, std::int64_t layer) {
  return config.delta.value_heads > 0 && config.delta.layers.at(static_cast<std::size_t>(layer));
}

std::vector<SiteSpec> block_sites(const ModelConfig& config, std::int64_t layer) {
  const std::string block = fmt::format("model.layers.{}.", layer);
  std::vector<SiteSpec> sites = is_delta(config, layer) ? delta_sites(config, block + "linear_attn.")
                                                        : attention_sites(config, block + "self_attn.");
  const MixtureConfig& mixture = config.mixture;
  if (!is_mixture(config, layer)) {
    add_feed_forward(config,
                     {"", block + config.feed_forward_module + ".", "gate_proj", "up_proj", "down_proj",
                      config.intermediate_size, -1, config.mlp_bias},
                     sites);
    return sites;
  }
  const std::string module = block + mixture.module + ".";
  for (std::int64_t e = 0; e < mixture.n_experts; ++e)
    add_feed_forward(config,
                     {fmt::format("expert.{}.", e), fmt::format("{}experts.{}.", module, e), mixture.gate, mixture.up,
                      mixture.down, mixture.expert_size, e, mixture.expert_bias},
                     sites);
  if (mixture.shared_size > 0)
    add_feed_forward(config,
                     {"shared_expert.", module + mixture.shared + ".", mixture.gate, mixture.up, mixture.down,
                      mixture.shared_size, -1, config.mlp_bias},
                     sites);
  return sites;
}

std::vector<TensorSpec> expected_tensors(const ModelConfig& config) {
  const std::int64_t hidden = config.hidden_size;
  std::vector<TensorSpec> tensors{{"model.embed_tokens.weight", {config.vocab_size, hidden}}};
  BlockNormSizes norms(config);
  struct {
    int sinks = 0, router = 0, router_bias = 0, choice_bias = 0, shared_gate = 0, conv = 0, delta_gates = 0,
        log_decay = 0, decay_bias = 0, delta_norm = 0;
  } small;
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    for_each_norm(config, layer, norms, [&](const std::string& name, std::int64_t size) {
      tensors.push_back({name, {size}});
    });
    for_each_small(config, layer, small, [&](const std::string& name, const core::Shape& shape, int) {
      tensors.push_back({name, shape});
    });
    for (const SiteSpec& site : block_sites(config, layer))
      for (const LinearSpec& linear : site.linears) {
        tensors.push_back({linear.name + ".weight", {linear.out_features, linear.in_features}});
        if (linear.has_bias) tensors.push_back({linear.name + ".bias", {linear.out_features}});
      }
  }
  tensors.push_back({"model.norm.weight", {hidden}});
  if (!config.tied_embeddings) tensors.push_back({"lm_head.weight", {config.vocab_size, hidden}});
  return tensors;
}

std::vector<LinearSpec> block_linears(const ModelConfig& config) {
  std::vector<LinearSpec> linears;
  for_each_linear(config, [&](const SiteSpec&, const LinearSpec& linear) { linears.push_back(linear); });
  return linears;
}

}  // namespace voronoi::model
