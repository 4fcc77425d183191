// Weights from a source to the device.
#include <algorithm>
#include <limits>
#include <utility>

#include "model/rope.h"
#include "model/transformer_impl.h"

namespace voronoi::model {

using backend::Array;

std::int64_t product(std::int64_t a, std::int64_t b) {
  const auto result = core::checked_multiply(a, b);
  VORONOI_REQUIRE(result.has_value(), "a number of elements overflows");
  return *result;
}

Transformer::Impl::Impl(const WeightSource& weight_source, backend::Context& backend_context)
    : source(weight_source), context(backend_context), config(weight_source.config()) {
  for (TensorSpec& spec : expected_tensors(config)) specs.push_back(std::move(spec));
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) sites.push_back(block_sites(config, layer));
}

const core::Shape& Transformer::Impl::shape_of(const std::string& name) const {
  const auto found =
      std::find_if(specs.begin(), specs.end(), [&](const TensorSpec& spec) { return spec.name == name; });
  VORONOI_REQUIRE(found != specs.end(), "the configuration has no tensor " + name);
  return found->shape;
}

Array<float> Transformer::Impl::load(const TensorSpec& spec) const {
  const auto n = core::element_count(spec.shape);
  VORONOI_REQUIRE(n.has_value(), "the size of " + spec.name + " overflows");
  Array<float> array(context, *n);
  if (context.device() == backend::Device::cpu) {
    source.read(spec, array.span());
  } else {
    std::vector<float> staging(static_cast<std::size_t>(*n));
    source.read(spec, staging);
    upload(std::span<const float>(staging), array);
  }
  return array;
}

Array<float> Transformer::Impl::load(const std::string& name) const { return load(TensorSpec{name, shape_of(name)}); }

Array<float> Transformer::Impl::load_norm(const std::string& name) const {
  if (!config.norm_plus_one) return load(name);
  const core::Shape& shape = shape_of(name);
  std::vector<float> weight(static_cast<std::size_t>(core::element_count(shape).value_or(0)));
  source.read(TensorSpec{name, shape}, weight);
  for (float& value : weight) value += 1.0F;
  return to_device(std::span<const float>(weight));
}

BlockWeights Transformer::Impl::load_block(std::int64_t layer) const {
  VORONOI_REQUIRE(layer >= 0 && layer < config.n_layers, "no such block");
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  BlockWeights weights;
  weights.layer = layer;
  weights.input_norm = load_norm(prefix + "input_layernorm.weight");
  if (config.post_norms) {
    weights.attention_out_norm = load_norm(prefix + "post_attention_layernorm.weight");
    weights.feed_forward_norm = load_norm(prefix + "pre_feedforward_layernorm.weight");
    weights.feed_forward_out_norm = load_norm(prefix + "post_feedforward_layernorm.weight");
  } else {
    weights.feed_forward_norm = load_norm(prefix + "post_attention_layernorm.weight");
  }
  if (config.qk_norm) {
    weights.q_norm = load_norm(prefix + "self_attn.q_norm.weight");
    weights.k_norm = load_norm(prefix + "self_attn.k_norm.weight");
  }
  if (is_mixture(config, layer)) {
    weights.router = load(prefix + config.mixture.module + ".gate.weight");
    if (config.mixture.shared_size > 0)
      weights.shared_gate = load(prefix + config.mixture.module + ".shared_expert_gate.weight");
  }
  for (const SiteSpec& site : sites[static_cast<std::size_t>(layer)]) {
    auto& linears = weights.linears.emplace_back();
    auto& biases = weights.biases.emplace_back();
    for (const LinearSpec& linear : site.linears) {
      linears.push_back(load(TensorSpec{linear.name + ".weight", {linear.out_features, linear.in_features}}));
      biases.push_back(linear.has_bias ? load(TensorSpec{linear.name + ".bias", {linear.out_features}})
                                       : Array<float>());
    }
  }
  return weights;
}

float* Transformer::Impl::grow(backend::Context& context, Array<float>& array, std::int64_t n) {
  if (array.size() < n) {
    array = Array<float>();
    array = Array<float>(context, n);
  }
  return array.data();
}

const Array<float>& Transformer::Impl::embedding_table() {
  if (embedding.empty()) embedding = load("model.embed_tokens.weight");
  return embedding;
}

const Array<float>& Transformer::Impl::head_table() {
  if (config.tied_embeddings) return embedding_table();
  if (head.empty()) head = load("lm_head.weight");
  return head;
}

const float* Transformer::Impl::rope_rows(std::int64_t n_tokens) {
  if (n_rope_positions < n_tokens) {
    const std::vector<float> table = rope_table(config.rope, config.head_dim, n_tokens);
    rope = to_device(std::span<const float>(table));
    n_rope_positions = n_tokens;
  }
  return rope.data();
}

}  // namespace voronoi::model
