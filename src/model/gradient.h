// What the backward pass gives and is told with: see Transformer::backward_block and its losses.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "backend/tensor.h"
#include "model/config.h"

namespace voronoi::model {

/// Called for every linear of a block: x [n_rows, in_features] is what entered it and dy [n_rows, out_features] the
/// loss's derivative by what left it (before its bias was added, which changes nothing), device memory, contiguous. Its
/// weight's gradient is dy^T x, summed over the calls: a block comes in several where it has many rows, in a fixed
/// order. An expert's linears see the rows routed to it, and there is no call when there are none.
using GradientObserver = std::function<void(const SiteSpec& site, std::size_t site_index, std::size_t linear,
                                            std::int64_t n_rows, const float* x, const float* dy)>;

/// Sums of gradients by what a block holds besides the weights of its linears; laid out as BlockWeights, an array is
/// empty where that one is. Norms: by what the normed value is multiplied by.
struct BlockGradients {
  backend::Array<float> input_norm, feed_forward_norm, attention_out_norm, feed_forward_out_norm, q_norm, k_norm,
      q_low_norm, kv_low_norm;
  backend::Array<float> sinks, router, shared_gate, router_bias;
  backend::Array<float> conv, delta_gates, log_decay, decay_bias, delta_norm;
  backend::Array<float> choice_bias;                       ///< always empty: the choice is constant
  std::vector<std::vector<backend::Array<float>>> biases;  ///< [site][linear]
};

}  // namespace voronoi::model
