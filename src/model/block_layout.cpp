// The linears and tensors of a model, from its configuration.
#include <fmt/format.h>

#include "model/config.h"
#include "model/each_linear.h"

namespace voronoi::model {
namespace {

/// A feed-forward part's two sites: module.gate and module.up on its input, module.down on their product.
struct FeedForward {
  std::string site_prefix, module, gate, up, down;
  std::int64_t inner = 0, expert = -1;
};

void add_feed_forward(const ModelConfig& config, const FeedForward& part, std::vector<SiteSpec>& sites) {
  const std::int64_t hidden = config.hidden_size;
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    return LinearSpec{part.module + name, out, in, config.mlp_bias};
  };
  SiteSpec gate_up{part.site_prefix + "gate_up", hidden, {}, part.expert};
  if (config.fused_projections)
    gate_up.linears = {linear("gate_up_proj", 2 * part.inner, hidden)};
  else
    gate_up.linears = {linear(part.gate, part.inner, hidden), linear(part.up, part.inner, hidden)};
  sites.push_back(std::move(gate_up));
  sites.push_back({part.site_prefix + "down", part.inner, {linear(part.down, hidden, part.inner)}, part.expert});
}

}  // namespace

bool is_mixture(const ModelConfig& config, std::int64_t layer) {
  return config.mixture.n_experts > 0 && config.mixture.layers.at(static_cast<std::size_t>(layer));
}

std::vector<SiteSpec> block_sites(const ModelConfig& config, std::int64_t layer) {
  const std::string block = fmt::format("model.layers.{}.", layer);
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t q = config.n_heads * config.head_dim, kv = config.n_kv_heads * config.head_dim;
  std::vector<SiteSpec> sites{{"qkv", hidden, {}}, {"o", q, {{block + "self_attn.o_proj", hidden, q, config.o_bias}}}};
  if (config.fused_projections)
    sites[kQkvSite].linears = {{block + "self_attn.qkv_proj", q + 2 * kv, hidden, config.qkv_bias}};
  else
    sites[kQkvSite].linears = {{block + "self_attn.q_proj", q, hidden, config.qkv_bias},
                               {block + "self_attn.k_proj", kv, hidden, config.qkv_bias},
                               {block + "self_attn.v_proj", kv, hidden, config.qkv_bias}};
  const MixtureConfig& mixture = config.mixture;
  if (!is_mixture(config, layer)) {
    add_feed_forward(config, {"", block + "mlp.", "gate_proj", "up_proj", "down_proj", config.intermediate_size},
                     sites);
    return sites;
  }
  const std::string module = block + mixture.module + ".";
  for (std::int64_t e = 0; e < mixture.n_experts; ++e)
    add_feed_forward(config,
                     {fmt::format("expert.{}.", e), fmt::format("{}experts.{}.", module, e), mixture.gate, mixture.up,
                      mixture.down, mixture.expert_size, e},
                     sites);
  if (mixture.shared_size > 0)
    add_feed_forward(
        config,
        {"shared_expert.", module + "shared_expert.", mixture.gate, mixture.up, mixture.down, mixture.shared_size},
        sites);
  return sites;
}

std::vector<TensorSpec> expected_tensors(const ModelConfig& config) {
  const std::int64_t hidden = config.hidden_size;
  std::vector<TensorSpec> tensors{{"model.embed_tokens.weight", {config.vocab_size, hidden}}};
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    const std::string block = fmt::format("model.layers.{}.", layer);
    tensors.push_back({block + "input_layernorm.weight", {hidden}});
    tensors.push_back({block + "post_attention_layernorm.weight", {hidden}});
    if (config.post_norms) {
      tensors.push_back({block + "pre_feedforward_layernorm.weight", {hidden}});
      tensors.push_back({block + "post_feedforward_layernorm.weight", {hidden}});
    }
    if (config.qk_norm) {
      tensors.push_back({block + "self_attn.q_norm.weight", {config.head_dim}});
      tensors.push_back({block + "self_attn.k_norm.weight", {config.head_dim}});
    }
    if (is_mixture(config, layer)) {
      const std::string module = block + config.mixture.module + ".";
      tensors.push_back({module + "gate.weight", {config.mixture.n_experts, hidden}});
      if (config.mixture.shared_size > 0) tensors.push_back({module + "shared_expert_gate.weight", {1, hidden}});
    }
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
