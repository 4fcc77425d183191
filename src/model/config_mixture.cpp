// The mixture of experts of a config.json.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "backend/device.h"
#include "core/error.h"
#include "model/config_family.h"

namespace voronoi::model {
namespace {

using core::Json;

/// Which layers are mixtures: all, or as "mlp_only_layers" and "decoder_sparse_step" say.
std::vector<bool> qwen_layers(const Keys& keys, std::int64_t n_layers) {
  std::vector<bool> layers(static_cast<std::size_t>(n_layers));
  const std::int64_t step = keys.integer_or("decoder_sparse_step", 1, kMaxLayers, 1);
  for (std::size_t layer = 0; layer < layers.size(); ++layer)
    layers[layer] = (static_cast<std::int64_t>(layer) + 1) % step == 0;
  const Json* dense = keys.find("mlp_only_layers");
  if (dense == nullptr) return layers;
  const auto is_index = [](const Json& entry) { return entry.is_number_integer() && entry >= 0; };
  if (!dense->is_array() || !std::all_of(dense->begin(), dense->end(), is_index))
    keys.refuse("mlp_only_layers", "is not a list of layer numbers");
  for (const Json& entry : *dense)
    if (const auto layer = entry.get<std::uint64_t>(); layer < layers.size()) layers[layer] = false;
  return layers;
}

std::int64_t count_experts(const Keys& keys, std::string_view key, std::int64_t n_layers) {
  const std::int64_t n_experts = keys.integer(key, 1, kMaxExperts);
  if (n_experts * n_layers > kMaxExpertsInAll)
    keys.refuse(key, fmt::format("is {}: {} layers of so many are more than {} experts", n_experts, n_layers,
                                 kMaxExpertsInAll));
  return n_experts;
}

void parse_qwen(const Keys& keys, const Family& family, const ModelConfig& config, MixtureConfig& mixture) {
  mixture.n_experts = count_experts(keys, "num_experts", config.n_layers);
  mixture.expert_size = keys.integer("moe_intermediate_size", 1, kMaxWidth);
  if (family.shared_expert) mixture.shared_size = keys.integer("shared_expert_intermediate_size", 1, kMaxWidth);
  mixture.renormalise = keys.boolean_or("norm_topk_prob", family.renormalise);
  mixture.layers = qwen_layers(keys, config.n_layers);
}

void parse_mixtral(const Keys& keys, const ModelConfig& config, MixtureConfig& mixture) {
  mixture.n_experts = count_experts(keys, "num_local_experts", config.n_layers);
  mixture.expert_size = config.intermediate_size;
  mixture.renormalise = true;
  mixture.layers.assign(static_cast<std::size_t>(config.n_layers), true);
  mixture.module = "block_sparse_moe";
  mixture.gate = "w1";
  mixture.up = "w3";
  mixture.down = "w2";
}

/// Of Glm4Moe and DeepseekV3, whose defaults the latter's are.
void parse_deepseek(const Keys& keys, const Family& family, ModelConfig& config) {
  MixtureConfig& mixture = config.mixture;
  const bool latent = family.latent;
  mixture.n_experts = count_experts(keys, "n_routed_experts", config.n_layers);
  mixture.expert_size = keys.integer("moe_intermediate_size", 1, kMaxWidth);
  mixture.shared_size = mixture.expert_size * keys.integer_or("n_shared_experts", 0, 1000, 1);
  mixture.shared = "shared_experts";
  mixture.shared_gate = false;
  mixture.choice_bias = "gate.e_score_correction_bias";
  mixture.sigmoid = true;
  mixture.renormalise = keys.boolean_or("norm_topk_prob", true);
  mixture.factor = keys.number_or("routed_scaling_factor", 0, latent ? 2.5 : 1);
  mixture.n_groups = keys.integer_or("n_group", 1, kernels::kMaxRouteGroups, latent ? 8 : 1);
  mixture.top_groups = keys.integer_or("topk_group", 1, mixture.n_groups, latent ? 4 : 1);
  const std::int64_t size = mixture.n_experts / mixture.n_groups;
  if (mixture.n_experts % mixture.n_groups != 0 || (mixture.n_groups > 1 && size < 2))
    keys.refuse("n_group", fmt::format("is {}: {} experts make no groups of two and more of one size", mixture.n_groups,
                                       mixture.n_experts));
  const std::int64_t first = keys.integer_or("first_k_dense_replace", 0, kMaxLayers, latent ? 3 : 1);
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) mixture.layers.push_back(layer >= first);
  for (const auto& [key, wanted] : {std::pair{"scoring_func", "sigmoid"}, std::pair{"topk_method", "noaux_tc"}})
    if (const std::string found = keys.string(key); !found.empty() && found != wanted)
      keys.refuse(key, fmt::format("is {}; \"{}\" is wanted", core::quote_text(found), wanted));
  if (keys.integer_or("moe_layer_freq", 1, kMaxLayers, 1) != 1)
    keys.refuse("moe_layer_freq", "is not 1, which is not supported");
  keys.know({"ep_size", "aux_loss_alpha", "seq_aux"});
  config.n_extra_layers = keys.integer_or("num_nextn_predict_layers", 0, 1000, 0);
}

void parse_gpt_oss(const Keys& keys, ModelConfig& config) {
  MixtureConfig& mixture = config.mixture;
  mixture.n_experts = count_experts(keys, "num_local_experts", config.n_layers);
  mixture.expert_size = config.intermediate_size;
  mixture.renormalise = true;  // a softmax over the chosen ones
  mixture.router = "router";
  mixture.router_bias = "router.bias";
  mixture.expert_bias = true;
  mixture.storage = ExpertStorage::interleaved;
  mixture.layers.assign(static_cast<std::size_t>(config.n_layers), true);
  config.sinks = true;
  config.activation = Activation::clamped_silu;
  config.gate_limit = keys.number_or("swiglu_limit", 0, 7);
  keys.know({"experts_per_token", "initial_context_length"});
}

/// Which layers are mixtures: "moe_layers", or every "interleave_moe_layer_step"-th.
std::vector<bool> llama4_layers(const Keys& keys, std::int64_t n_layers) {
  std::vector<bool> layers(static_cast<std::size_t>(n_layers), false);
  const std::int64_t step = keys.integer_or("interleave_moe_layer_step", 1, kMaxLayers, 1);
  const Json* list = keys.find("moe_layers");
  if (list == nullptr) {
    for (std::int64_t layer = step - 1; layer < n_layers; layer += step) layers[static_cast<std::size_t>(layer)] = true;
    return layers;
  }
  const auto is_layer = [&](const Json& entry) { return entry.is_number_integer() && entry >= 0 && entry < n_layers; };
  if (!list->is_array() || !std::all_of(list->begin(), list->end(), is_layer))
    keys.refuse("moe_layers", "is not a list of numbers of layers");
  for (const Json& entry : *list) layers[entry.get<std::size_t>()] = true;
  return layers;
}

void parse_llama4(const Keys& keys, ModelConfig& config) {
  MixtureConfig& mixture = config.mixture;
  mixture.n_experts = count_experts(keys, "num_local_experts", config.n_layers);
  mixture.expert_size = mixture.shared_size = config.intermediate_size;
  config.intermediate_size = keys.integer("intermediate_size_mlp", 1, kMaxWidth);
  mixture.sigmoid = mixture.weighs_input = true;
  mixture.shared_gate = false;
  mixture.router = "router";
  mixture.storage = ExpertStorage::halves;
  mixture.layers = llama4_layers(keys, config.n_layers);
  mixture.module = config.feed_forward_module = "feed_forward";
}

}  // namespace

void parse_mixture(const Keys& keys, const Family& family, ModelConfig& config) {
  if (family.mixture == Mixture::none) return;
  MixtureConfig& mixture = config.mixture;
  mixture.module = "mlp";
  mixture.gate = "gate_proj";
  mixture.up = "up_proj";
  mixture.down = "down_proj";
  switch (family.mixture) {
    case Mixture::qwen:
      parse_qwen(keys, family, config, mixture);
      break;
    case Mixture::deepseek:
      parse_deepseek(keys, family, config);
      break;
    case Mixture::gpt_oss:
      parse_gpt_oss(keys, config);
      break;
    case Mixture::llama4:
      parse_llama4(keys, config);
      break;
    default:
      parse_mixtral(keys, config, mixture);
  }
  const std::int64_t staying = mixture.n_experts / mixture.n_groups * mixture.top_groups;
  mixture.top_k = keys.integer("num_experts_per_tok", 1, staying);
}

}  // namespace voronoi::model
