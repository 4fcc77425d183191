// What a block's forward pass keeps so that its backward pass need not run it again.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/tensor.h"
#include "model/config.h"

namespace voronoi::model {

// Device memory, fp32; arrays are at least of the size stated and live on for the next pass.

/// Of the attention half, for n_rows tokens. Of the delta rule: `low` what its gates are made of [n_rows, 2 heads], qkv
/// what enters the convolution [n_rows, channels], attended [n_rows, values] what leaves the rule.
struct AttentionTape {
  backend::Array<float> raw_qk;    ///< q, then k, before their norms, where there are such
  backend::Array<float> low;       ///< of latent attention: what its vectors of low rank are, before their norms
  backend::Array<float> qkv;       ///< as they enter attention: [n_rows, q + k + v] values
  backend::Array<float> attended;  ///< [n_rows, n_heads * head_dim] leaves it
  backend::Array<float> gate;      ///< on what leaves it, where there is one: as many values
  backend::Array<float> out;       ///< [n_rows, hidden_size] leaves it, where a norm follows
};

/// Of a feed-forward half that is no mixture.
struct FeedForwardTape {
  backend::Array<float> gate_up;  ///< gates, then ups, each [n_rows, inner]
  backend::Array<float> out;      ///< [n_rows, hidden_size] leaves the down projection, where a norm follows
};

/// Of a block: what costs products is kept; norms and gated products are computed again, and so is a mixture.
struct BlockTape {
  backend::Array<float> entered, middle;      ///< the residual stream before the block and between its halves
  std::vector<AttentionTape> attention;       ///< of each batch of sequences
  std::vector<FeedForwardTape> feed_forward;  ///< of each slab of their rows
};

/// What a tape of block `layer` takes for n_rows tokens.
std::int64_t tape_bytes(const ModelConfig& config, std::int64_t layer, std::int64_t n_rows);

}  // namespace voronoi::model
