// Models of random weights in host memory, of every architecture.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/types.h"
#include "model/config.h"
#include "model/weights.h"

namespace voronoi::test {

/// Random weights in host memory, which may be moved.
class GeneratedSource : public model::WeightSource {
 public:
  explicit GeneratedSource(const core::Json& changes) {
    core::Json json = {{"model_type", "llama"},
                       {"hidden_size", 24},
                       {"intermediate_size", 30},
                       {"num_hidden_layers", 2},
                       {"num_attention_heads", 4},
                       {"num_key_value_heads", 2},
                       {"head_dim", 6},
                       {"vocab_size", 37},
                       {"max_position_embeddings", 4096},
                       {"rms_norm_eps", 1e-5},
                       {"rope_theta", 100.0},
                       {"hidden_act", "silu"},
                       {"tie_word_embeddings", false}};
    json.update(changes);
    config_ = model::parse_config(json, "generated");
    std::uint32_t seed = 0;
    for (const model::TensorSpec& spec : model::expected_tensors(config_)) {
      std::mt19937 engine(++seed);
      std::normal_distribution<float> normal(0.0F, spec.name.find("embed") == std::string::npos ? 0.25F : 1.0F);
      std::vector<float>& values = tensors[spec.name];
      values.resize(static_cast<std::size_t>(core::element_count(spec.shape).value()));
      const bool norm = spec.name.find("norm") != std::string::npos,
                 is_plain = !config_.norm_plus_one || spec.name.find("linear_attn.norm") != std::string::npos;
      for (float& value : values) value = normal(engine) + (norm && is_plain ? 1.0F : 0.0F);
    }
  }
  const model::ModelConfig& config() const override { return config_; }
  void read(const model::TensorSpec& spec, std::span<float> out) const override {
    std::ranges::copy(tensors.at(spec.name), out.begin());
  }
  std::string fingerprint() const override { return {}; }
  const std::string& path() const override { return path_; }

  std::map<std::string, std::vector<float>> tensors;

 private:
  model::ModelConfig config_;
  std::string path_ = "generated";
};

struct Architecture {
  const char* name;
  core::Json changes;
};

inline void PrintTo(const Architecture& architecture, std::ostream* stream) { *stream << architecture.name; }

inline const std::vector<Architecture>& architectures() {
  static const std::vector<Architecture> all{
      {"llama_with_biases", {{"attention_bias", true}, {"mlp_bias", true}}},
      {"llama_tied", {{"tie_word_embeddings", true}}},
      {"mistral_with_window", {{"model_type", "mistral"}, {"sliding_window", 4}}},
      {"qwen3", {{"model_type", "qwen3"}}},
      {"mixtral",
       {{"model_type", "mixtral"}, {"num_local_experts", 4}, {"num_experts_per_tok", 2}, {"sliding_window", nullptr}}},
      {"qwen2_moe",
       {{"model_type", "qwen2_moe"},
        {"num_experts", 5},
        {"num_experts_per_tok", 3},
        {"moe_intermediate_size", 10},
        {"shared_expert_intermediate_size", 14},
        {"decoder_sparse_step", 1},
        {"mlp_only_layers", core::Json::array()},
        {"norm_topk_prob", false},
        {"qkv_bias", true}}},
      {"qwen3_moe",
       {{"model_type", "qwen3_moe"},
        {"num_experts", 6},
        {"num_experts_per_tok", 3},
        {"moe_intermediate_size", 10},
        {"decoder_sparse_step", 1},
        {"mlp_only_layers", {1}},
        {"norm_topk_prob", true}}},
      {"qwen3_next",
       {{"model_type", "qwen3_next"},
        {"layer_types", {"linear_attention", "full_attention"}},
        {"head_dim", 8},
        {"partial_rotary_factor", 0.5},
        {"linear_num_key_heads", 2},
        {"linear_num_value_heads", 4},
        {"linear_key_head_dim", 5},
        {"linear_value_head_dim", 7},
        {"linear_conv_kernel_dim", 3},
        {"num_experts", 4},
        {"num_experts_per_tok", 4},
        {"moe_intermediate_size", 10},
        {"shared_expert_intermediate_size", 14}}},
      {"gemma2",
       {{"model_type", "gemma2"},
        {"tie_word_embeddings", true},
        {"hidden_activation", "gelu_pytorch_tanh"},
        {"attn_logit_softcapping", 2.0},
        {"final_logit_softcapping", 3.0},
        {"query_pre_attn_scalar", 8},
        {"sliding_window", 4}}},
      {"phi3", {{"model_type", "phi3"}, {"original_max_position_embeddings", 4096}, {"sliding_window", nullptr}}},
      {"granite",
       {{"model_type", "granite"},
        {"embedding_multiplier", 3.0},
        {"attention_multiplier", 0.3},
        {"residual_multiplier", 0.6},
        {"logits_scaling", 2.0}}},
      {"olmo2", {{"model_type", "olmo2"}}},
      {"glm4", {{"model_type", "glm4"}, {"head_dim", 8}, {"attention_bias", true}}},
      {"cohere2",
       {{"model_type", "cohere2"},
        {"sliding_window", 4},
        {"layer_types", {"sliding_attention", "full_attention"}},
        {"logit_scale", 0.5}}},
      {"gemma3",
       {{"model_type", "gemma3_text"},
        {"hidden_act", nullptr},
        {"sliding_window", 4},
        {"layer_types", {"sliding_attention", "full_attention"}},
        {"query_pre_attn_scalar", 3},
        {"rope_local_base_freq", 10.0},
        {"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}}}}},
      {"glm4_moe",
       {{"model_type", "glm4_moe"},
        {"head_dim", 8},
        {"attention_bias", true},
        {"use_qk_norm", true},
        {"moe_intermediate_size", 10},
        {"n_routed_experts", 6},
        {"num_experts_per_tok", 2},
        {"n_group", 3},
        {"topk_group", 2}}},
      {"gpt_oss",
       {{"model_type", "gpt_oss"},
        {"num_local_experts", 4},
        {"num_experts_per_tok", 2},
        {"sliding_window", 4},
        {"swiglu_limit", 50.0},
        {"rope_scaling",
         {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}, {"truncate", false}}}}},
      {"llama4",
       {{"model_type", "llama4_text"},
        {"num_local_experts", 4},
        {"num_experts_per_tok", 2},
        {"intermediate_size_mlp", 26},
        {"moe_layers", {1}},
        {"no_rope_layers", {1, 0}},
        {"attention_chunk_size", 12},
        {"attn_scale", 0.3},
        {"floor_scale", 5}}},
      {"deepseek_v3",
       {{"model_type", "deepseek_v3"},
        {"num_key_value_heads", 4},
        {"q_lora_rank", 10},
        {"kv_lora_rank", 8},
        {"qk_nope_head_dim", 4},
        {"qk_rope_head_dim", 6},
        {"v_head_dim", 5},
        {"moe_intermediate_size", 10},
        {"n_routed_experts", 4},
        {"num_experts_per_tok", 4},
        {"n_group", 1},
        {"topk_group", 1},
        // Larger scores: differences of the loss are to be seen beside the rounding of fp32.
        {"rope_scaling",
         {{"type", "yarn"}, {"factor", 40.0}, {"original_max_position_embeddings", 64}, {"mscale_all_dim", 4.0}}},
        {"first_k_dense_replace", 1}}}};
  return all;
}

}  // namespace voronoi::test
