// The norms of a block by the names of their tensors.
#pragma once

#include <cstdint>
#include <string>

#include "model/config.h"

namespace voronoi::model {

/// What the names of a block's tensors begin with.
inline std::string block_prefix(std::int64_t layer) { return "model.layers." + std::to_string(layer) + "."; }

/// visit(name of the tensor, what a Block holds of it) for every norm of the layer, in a fixed order;
/// Block: BlockWeights or BlockGradients.
template <class Block, class Visit>
void for_each_norm(const ModelConfig& config, std::int64_t layer, Block& block, const Visit& visit) {
  const std::string prefix = block_prefix(layer);
  visit(prefix + "input_layernorm.weight", block.input_norm);
  if (config.post_norms) {
    visit(prefix + "post_attention_layernorm.weight", block.attention_out_norm);
    visit(prefix + "pre_feedforward_layernorm.weight", block.feed_forward_norm);
    visit(prefix + "post_feedforward_layernorm.weight", block.feed_forward_out_norm);
  } else {
    visit(prefix + "post_attention_layernorm.weight", block.feed_forward_norm);
  }
  if (config.qk_norm) {
    visit(prefix + "self_attn.q_norm.weight", block.q_norm);
    visit(prefix + "self_attn.k_norm.weight", block.k_norm);
  }
}

}  // namespace voronoi::model
