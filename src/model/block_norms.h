// The norms of a block by the names of their tensors.
#pragma once

#include <cstdint>
#include <string>

#include "model/config.h"

namespace voronoi::model {

/// What the names of a block's tensors begin with.
inline std::string block_prefix(std::int64_t layer) { return "model.layers." + std::to_string(layer) + "."; }

/// visit(name of the tensor, what a Block holds of it) for every norm of the layer, in a fixed order;
/// Block: BlockWeights, BlockGradients or BlockNormSizes.
template <class Block, class Visit>
void for_each_norm(const ModelConfig& config, std::int64_t layer, Block& block, const Visit& visit) {
  const std::string prefix = block_prefix(layer);
  const auto named = [&](const std::string& name, auto& norm) {
    if (!name.empty()) visit(prefix + name + ".weight", norm);
  };
  named(config.norms.input, block.input_norm);
  named(config.norms.attention_out, block.attention_out_norm);
  named(config.norms.feed_forward, block.feed_forward_norm);
  named(config.norms.feed_forward_out, block.feed_forward_out_norm);
  if (config.qk_norm && !config.qk_norm_plain && !is_delta(config, layer)) {
    named("self_attn.q_norm", block.q_norm);
    named("self_attn.k_norm", block.k_norm);
  }
  if (config.latent.q_rank > 0) named("self_attn.q_a_layernorm", block.q_low_norm);
  if (config.latent.kv_rank > 0) named("self_attn.kv_a_layernorm", block.kv_low_norm);
}

/// Values of each norm of a block.
struct BlockNormSizes {
  std::int64_t input_norm, feed_forward_norm, attention_out_norm, feed_forward_out_norm, q_norm, k_norm, q_low_norm,
      kv_low_norm;

  explicit BlockNormSizes(const ModelConfig& config)
      : input_norm(config.hidden_size),
        feed_forward_norm(config.hidden_size),
        attention_out_norm(config.hidden_size),
        feed_forward_out_norm(config.hidden_size),
        q_norm(config.head_dim * (config.qk_norm_whole ? config.n_heads : 1)),
        k_norm(config.head_dim * (config.qk_norm_whole ? config.n_kv_heads : 1)),
        q_low_norm(config.latent.q_rank),
        kv_low_norm(config.latent.kv_rank) {}
};

/// The tensors of a block that are neither norms nor a linear's, by what a Block holds of them, with their shapes.
template <class Block, class Visit>
void for_each_small(const ModelConfig& config, std::int64_t layer, Block& block, const Visit& visit) {
  const std::string prefix = block_prefix(layer);
  if (config.sinks) visit(prefix + "self_attn.sinks", core::Shape{config.n_heads}, block.sinks);
  if (is_delta(config, layer)) {
    const DeltaConfig& delta = config.delta;
    const std::string module = prefix + "linear_attn.";
    visit(module + "conv1d.weight", core::Shape{delta.channels(), 1, delta.width}, block.conv);
    visit(module + "in_proj_ba.weight", core::Shape{2 * delta.value_heads, config.hidden_size}, block.delta_gates);
    visit(module + "A_log", core::Shape{delta.value_heads}, block.log_decay);
    visit(module + "dt_bias", core::Shape{delta.value_heads}, block.decay_bias);
    visit(module + "norm.weight", core::Shape{delta.value_dim}, block.delta_norm);  // never 1 + weight
  }
  const MixtureConfig& mixture = config.mixture;
  if (!is_mixture(config, layer)) return;
  const std::string module = prefix + mixture.module + ".";
  visit(module + mixture.router + ".weight", core::Shape{mixture.n_experts, config.hidden_size}, block.router);
  if (!mixture.router_bias.empty())
    visit(module + mixture.router_bias, core::Shape{mixture.n_experts}, block.router_bias);
  if (!mixture.choice_bias.empty())
    visit(module + mixture.choice_bias, core::Shape{mixture.n_experts}, block.choice_bias);
  if (mixture.shared_size > 0 && mixture.shared_gate)
    visit(module + "shared_expert_gate.weight", core::Shape{1, config.hidden_size}, block.shared_gate);
}

}  // namespace voronoi::model
