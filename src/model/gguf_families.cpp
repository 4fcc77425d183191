#include "model/gguf_families.h"

#include <array>

#include "core/error.h"
#include "model/config_family.h"

namespace voronoi::model {
namespace {

using Take = GgufKey::Kind;

/// Read by model/gguf_config.cpp for every architecture, or without effect on what is computed.
constexpr auto kCommonKeys = std::to_array<GgufKey>({
    {"embedding_length", "hidden_size", Take::integer, true},
    {"feed_forward_length", "intermediate_size", Take::integer, true},
    {"attention.head_count", "num_attention_heads", Take::integer, true},
    {"context_length", "max_position_embeddings"},
    {"block_count", "", Take::known},
    {"vocab_size", "", Take::known},
    {"tensor_data_layout", "", Take::known},
    {"expert_count", "", Take::known},
    {"expert_used_count", "", Take::known},
    {"attention.head_count_kv", "", Take::known},
    {"attention.key_length", "", Take::known},
    {"attention.value_length", "", Take::known},
    {"attention.layer_norm_rms_epsilon", "", Take::known},
    {"rope.dimension_count", "", Take::known},
    {"rope.freq_base", "", Take::known},
    {"rope.freq_base_swa", "", Take::known},
    {"rope.scale_linear", "", Take::known},
    {"rope.scaling.type", "", Take::known},
    {"rope.scaling.factor", "", Take::known},
    {"rope.scaling.attn_factor", "", Take::known},
    {"rope.scaling.original_context_length", "", Take::known},
    {"rope.scaling.finetuned", "", Take::known},
    {"rope.scaling.yarn_beta_fast", "", Take::known},
    {"rope.scaling.yarn_beta_slow", "", Take::known},
    {"rope.scaling.yarn_ext_factor", "", Take::known},
    {"rope.scaling.yarn_attn_factor", "", Take::known},
    {"rope.scaling.yarn_log_multiplier", "", Take::known},
    {"attention.temperature_scale", "", Take::known},
});

constexpr auto kMixtralKeys = std::to_array<GgufKey>({
    {"expert_count", "num_local_experts", Take::integer, true},
    {"expert_used_count", "num_experts_per_tok", Take::integer, true},
});
constexpr auto kQwenMoeKeys = std::to_array<GgufKey>({
    {"expert_count", "num_experts", Take::integer, true},
    {"expert_used_count", "num_experts_per_tok", Take::integer, true},
    {"expert_feed_forward_length", "moe_intermediate_size", Take::integer, true},
});
constexpr auto kQwen2MoeKeys = std::to_array<GgufKey>({
    {"expert_count", "num_experts", Take::integer, true},
    {"expert_used_count", "num_experts_per_tok", Take::integer, true},
    {"expert_feed_forward_length", "moe_intermediate_size", Take::integer, true},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size", Take::integer, true},
});
constexpr auto kGptOssKeys = std::to_array<GgufKey>({
    {"expert_count", "num_local_experts", Take::integer, true},
    {"expert_used_count", "num_experts_per_tok", Take::integer, true},
    {"expert_feed_forward_length", "intermediate_size", Take::integer, true},
    {"attention.sliding_window", "sliding_window", Take::integer, true},
    {"attention.sliding_window_pattern", "", Take::known},
});
constexpr auto kGlmMoeKeys = std::to_array<GgufKey>({
    {"expert_count", "n_routed_experts", Take::integer, true},
    {"expert_used_count", "num_experts_per_tok", Take::integer, true},
    {"expert_feed_forward_length", "moe_intermediate_size", Take::integer, true},
    {"expert_shared_count", "n_shared_experts"},
    {"leading_dense_block_count", "first_k_dense_replace"},
    {"expert_weights_scale", "routed_scaling_factor", Take::decimal},
    {"expert_weights_norm", "norm_topk_prob", Take::boolean},
    {"expert_group_count", "n_group"},
    {"expert_group_used_count", "topk_group"},
    {"expert_gating_func", "", Take::known},
    {"nextn_predict_layers", "num_nextn_predict_layers"},
});
constexpr auto kDeepseekKeys = std::to_array<GgufKey>({
    {"expert_count", "n_routed_experts", Take::integer, true},
    {"expert_used_count", "num_experts_per_tok", Take::integer, true},
    {"expert_feed_forward_length", "moe_intermediate_size", Take::integer, true},
    {"expert_shared_count", "n_shared_experts"},
    {"leading_dense_block_count", "first_k_dense_replace"},
    {"expert_weights_scale", "routed_scaling_factor", Take::decimal},
    {"expert_weights_norm", "norm_topk_prob", Take::boolean},
    {"expert_group_count", "n_group"},
    {"expert_group_used_count", "topk_group"},
    {"expert_gating_func", "", Take::known},
    {"nextn_predict_layers", "num_nextn_predict_layers"},
    {"attention.q_lora_rank", "q_lora_rank"},
    {"attention.kv_lora_rank", "kv_lora_rank", Take::integer, true},
    {"attention.key_length_mla", "", Take::known},
    {"attention.value_length_mla", "", Take::known},
});
constexpr auto kGemma2Keys = std::to_array<GgufKey>({
    {"attn_logit_softcapping", "attn_logit_softcapping", Take::decimal},
    {"final_logit_softcapping", "final_logit_softcapping", Take::decimal},
    {"attention.sliding_window", "sliding_window"},
    {"attention.sliding_window_pattern", "", Take::known},
});
constexpr auto kGemma3Keys = std::to_array<GgufKey>({
    {"final_logit_softcapping", "final_logit_softcapping", Take::decimal},
    {"attention.sliding_window", "sliding_window"},
    {"attention.sliding_window_pattern", "", Take::known},
    {"rope.freq_base_swa", "rope_local_base_freq", Take::decimal},
});
constexpr auto kPhi3Keys = std::to_array<GgufKey>({
    {"attention.sliding_window", "", Take::known},
});
constexpr auto kGraniteKeys = std::to_array<GgufKey>({
    {"attention.scale", "attention_multiplier", Take::decimal, true},
    {"embedding_scale", "embedding_multiplier", Take::decimal, true},
    {"residual_scale", "residual_multiplier", Take::decimal, true},
    {"logit_scale", "logits_scaling", Take::decimal, true},
});
constexpr auto kCohere2Keys = std::to_array<GgufKey>({
    {"logit_scale", "logit_scale", Take::decimal, true},
    {"attention.layer_norm_epsilon", "", Take::known},
    {"attention.sliding_window", "sliding_window", Take::integer, true},
    {"attention.sliding_window_pattern", "", Take::known},
});
/// Of pictures alone.
constexpr auto kQwen3VlKeys = std::to_array<GgufKey>({
    {"rope.dimension_sections", "", Take::known},
    {"n_deepstack_layers", "", Take::known},
});

constexpr auto kGgufFamilies = std::to_array<GgufFamily>({
    // Mistral's models without a window are llamas here.
    {.arch = "llama", .model_type = "llama", .paired_rows = true},
    {.arch = "llama", .model_type = "mixtral", .mixture = true, .keys = kMixtralKeys, .paired_rows = true},
    {.arch = "mistral3", .model_type = "mistral", .stated = R"({"sliding_window": null})", .paired_rows = true},
    {.arch = "qwen2", .model_type = "qwen2", .bias_key = false},
    {.arch = "qwen2moe", .model_type = "qwen2_moe", .mixture = true, .keys = kQwen2MoeKeys, .bias_key = false},
    {.arch = "qwen3", .model_type = "qwen3"},
    {.arch = "qwen3moe",
     .model_type = "qwen3_moe",
     .mixture = true,
     .stated = R"({"norm_topk_prob": true})",
     .keys = kQwenMoeKeys,
     .dense_by_tensors = true},
    // With text alone, whose positions are the same in all sections, it is a Qwen3.
    {.arch = "qwen3vl", .model_type = "qwen3", .keys = kQwen3VlKeys},
    {.arch = "gemma", .model_type = "gemma", .norms_plus_one = true},
    {.arch = "gemma2",
     .model_type = "gemma2",
     .keys = kGemma2Keys,
     .norms_plus_one = true,
     .window_period = 2,
     .wide_layers = 46},
    {.arch = "gemma3",
     .model_type = "gemma3_text",
     .stated = R"({"rope_local_base_freq": 10000.0, "sliding_window": null})",
     .keys = kGemma3Keys,
     .norms_plus_one = true,
     .window_period = 6,
     .wide_layers = 62},
    {.arch = "phi3", .model_type = "phi3", .keys = kPhi3Keys, .partial_rotary = true},
    {.arch = "granite", .model_type = "granite", .keys = kGraniteKeys, .paired_rows = true},
    {.arch = "olmo2", .model_type = "olmo2"},
    {.arch = "glm4", .model_type = "glm4", .partial_rotary = true},
    {.arch = "glm4moe",
     .model_type = "glm4_moe",
     .mixture = true,
     .stated = R"({"norm_topk_prob": false, "routed_scaling_factor": 1.0, "n_shared_experts": 0,
                   "first_k_dense_replace": 0, "n_group": 1, "topk_group": 1})",
     .keys = kGlmMoeKeys,
     .partial_rotary = true,
     .feed_forward_norm = "post_attention_norm"},
    {.arch = "cohere2",
     .model_type = "cohere2",
     .keys = kCohere2Keys,
     .norm_eps = "layer",
     .window_period = 4,
     .window_needed = true},
    {.arch = "gpt-oss",
     .model_type = "gpt_oss",
     .mixture = true,
     .keys = kGptOssKeys,
     .window_period = 2,
     .window_needed = true,
     .feed_forward_norm = "post_attention_norm"},
    {.arch = "deepseek2",
     .model_type = "deepseek_v3",
     .mixture = true,
     .stated = R"({"norm_topk_prob": false, "routed_scaling_factor": 1.0, "n_shared_experts": 0,
                   "first_k_dense_replace": 0, "n_group": 1, "topk_group": 1, "q_lora_rank": null})",
     .keys = kDeepseekKeys,
     .latent = true},
});

std::string supported() {
  std::string names;
  std::string_view last;
  for (const GgufFamily& family : kGgufFamilies) {
    if (family.arch != last) names += (names.empty() ? "" : ", ") + std::string(family.arch);
    last = family.arch;
  }
  return names;
}

}  // namespace

std::span<const GgufKey> common_gguf_keys() { return kCommonKeys; }

const GgufFamily& gguf_family(const GgufFile& file) {
  const std::string& arch = file.at("general.architecture").as_string();
  const GgufValue* experts = file.find(arch + ".expert_count");
  const bool mixture = experts != nullptr && experts->as_u64() > 0;
  bool named = false;
  for (const GgufFamily& family : kGgufFamilies) {
    if (family.arch != arch) continue;
    if (family.mixture == mixture) return family;
    named = true;
  }
  const std::string remedy = "; give the model's Hugging Face directory (safetensors)";
  if (named && mixture)
    throw core::FormatError(file.path(), "key \"" + arch + ".expert_count\": mixtures of experts of the architecture " +
                                             arch + " are not read from GGUF files" + remedy);
  if (named)
    throw core::FormatError(file.path(), "key \"" + arch +
                                             ".expert_count\" is missing or 0; models of the architecture " + arch +
                                             " without experts are not read from GGUF files" + remedy);
  // GGUF files call a mistral a llama.
  if (arch == "mistral")
    throw core::FormatError(file.path(), "key \"general.architecture\": \"mistral\" is no architecture of GGUF files");
  throw core::FormatError(file.path(), "key \"general.architecture\": " + core::quote_text(arch) +
                                           " is not read from GGUF files, only " + supported() + " are" + remedy);
}

}  // namespace voronoi::model
