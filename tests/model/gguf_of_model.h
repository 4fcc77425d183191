// A Hugging Face model as llama.cpp's converter would write it to a GGUF file, all in F32: keys, names of tensors,
// order of rows and what norms hold are those of gguf-py's tables and of the converter's conventions, written down here
// a second time and by other means than the reader has them. What GGUF cannot say of a model (the scale of Gemma's
// attention, the two factors of DeepSeek's yarn) goes into weights that it multiplies.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "model/model_files.h"
#include "model/weights.h"

namespace voronoi::test {

struct GgufConvention {
  std::string arch;
  bool pairs = false;                        ///< rows of q and k: halves of a head become pairs
  bool plus_one = false;                     ///< norms hold 1 + w
  std::map<std::string, std::string> names;  ///< where they differ from gguf_names()
};

/// Names within a block, for most architectures.
inline const std::map<std::string, std::string>& gguf_names() {
  static const std::map<std::string, std::string> names{{"input_layernorm", "attn_norm"},
                                                        {"post_attention_layernorm", "ffn_norm"},
                                                        {"self_attn.q_proj", "attn_q"},
                                                        {"self_attn.k_proj", "attn_k"},
                                                        {"self_attn.v_proj", "attn_v"},
                                                        {"self_attn.qkv_proj", "attn_qkv"},
                                                        {"self_attn.o_proj", "attn_output"},
                                                        {"self_attn.q_norm", "attn_q_norm"},
                                                        {"self_attn.k_norm", "attn_k_norm"},
                                                        {"self_attn.sinks", "attn_sinks.weight"},
                                                        {"self_attn.q_a_proj", "attn_q_a"},
                                                        {"self_attn.q_a_layernorm", "attn_q_a_norm"},
                                                        {"self_attn.q_b_proj", "attn_q_b"},
                                                        {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
                                                        {"self_attn.kv_a_layernorm", "attn_kv_a_norm"},
                                                        {"self_attn.kv_b_proj", "attn_kv_b"},
                                                        {"mlp.gate_proj", "ffn_gate"},
                                                        {"mlp.up_proj", "ffn_up"},
                                                        {"mlp.down_proj", "ffn_down"},
                                                        {"mlp.gate_up_proj", "ffn_up"},
                                                        {"mlp.gate", "ffn_gate_inp"},
                                                        {"mlp.router", "ffn_gate_inp"},
                                                        {"block_sparse_moe.gate", "ffn_gate_inp"},
                                                        {"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"},
                                                        {"mlp.shared_expert_gate", "ffn_gate_inp_shexp"},
                                                        {"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
                                                        {"mlp.shared_expert.up_proj", "ffn_up_shexp"},
                                                        {"mlp.shared_expert.down_proj", "ffn_down_shexp"},
                                                        {"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
                                                        {"mlp.shared_experts.up_proj", "ffn_up_shexp"},
                                                        {"mlp.shared_experts.down_proj", "ffn_down_shexp"},
                                                        {"mlp.experts.*.gate_proj", "ffn_gate_exps"},
                                                        {"mlp.experts.*.up_proj", "ffn_up_exps"},
                                                        {"mlp.experts.*.down_proj", "ffn_down_exps"},
                                                        {"block_sparse_moe.experts.*.w1", "ffn_gate_exps"},
                                                        {"block_sparse_moe.experts.*.w3", "ffn_up_exps"},
                                                        {"block_sparse_moe.experts.*.w2", "ffn_down_exps"}};
  return names;
}

inline const GgufConvention& gguf_convention(const std::string& model_type) {
  using Names = std::map<std::string, std::string>;
  static const Names around{{"post_attention_layernorm", "post_attention_norm"},
                            {"pre_feedforward_layernorm", "ffn_norm"},
                            {"post_feedforward_layernorm", "post_ffw_norm"}};
  static const Names glm{{"post_self_attn_layernorm", "post_attention_norm"}, {"post_mlp_layernorm", "post_ffw_norm"}};
  static const Names behind{{"post_attention_layernorm", "post_attention_norm"}};
  static const std::map<std::string, GgufConvention> table{{"llama", {"llama", true, false, {}}},
                                                           {"mistral", {"llama", true, false, {}}},
                                                           {"mixtral", {"llama", true, false, {}}},
                                                           {"qwen2", {"qwen2", false, false, {}}},
                                                           {"qwen2_moe", {"qwen2moe", false, false, {}}},
                                                           {"qwen3", {"qwen3", false, false, {}}},
                                                           {"qwen3_moe", {"qwen3moe", false, false, {}}},
                                                           {"qwen3_vl_text", {"qwen3vl", false, false, {}}},
                                                           {"gemma", {"gemma", false, true, {}}},
                                                           {"gemma2", {"gemma2", false, true, around}},
                                                           {"gemma3_text", {"gemma3", false, true, around}},
                                                           {"phi3", {"phi3", false, false, {}}},
                                                           {"granite", {"granite", true, false, {}}},
                                                           {"olmo2", {"olmo2", false, false, around}},
                                                           {"glm4", {"glm4", false, false, glm}},
                                                           {"glm4_moe", {"glm4moe", false, false, behind}},
                                                           {"cohere2", {"cohere2", false, false, {}}},
                                                           {"gpt_oss", {"gpt-oss", false, false, behind}},
                                                           {"deepseek_v3", {"deepseek2", false, false, {}}}};
  return table.at(model_type);
}

class GgufOfModel {
 public:
  /// config: the model's config.json, of a wrapper its text_config. split_kv: as files of latent attention are since
  /// March 2025. arch: another name than the convention's.
  GgufOfModel(const model::WeightSource& source, core::Json config, bool split_kv = true, const std::string& arch = "")
      : source_(source),
        c_(std::move(config)),
        convention_(gguf_convention(c_.at("model_type").get<std::string>())),
        arch_(arch.empty() ? convention_.arch : arch),
        split_kv_(split_kv) {}

  std::string bytes() {
    writer_.text("general.architecture", arch_).text("tokenizer.ggml.model", "none");  // llama.cpp loads it as well
    add_keys();
    for (const model::TensorSpec& spec : model::expected_tensors(source_.config())) add(spec);
    for (const auto& [name, stack] : stacks_) tensor(name, stack.first, stack.second);
    return writer_.bytes();
  }

 private:
  using Values = std::vector<float>;

  // Metadata.
  bool has(const char* key) const { return c_.contains(key) && !c_.at(key).is_null(); }
  void u32(const std::string& key, std::int64_t value) {
    writer_.u32(arch_ + "." + key, static_cast<std::uint32_t>(value));
  }
  void f32(const std::string& key, double value) { writer_.f32(arch_ + "." + key, static_cast<float>(value)); }
  void flag(const std::string& key, bool value) { writer_.entry(arch_ + "." + key, 7, std::string(1, value ? 1 : 0)); }
  void u32_of(const std::string& key, const char* ours) {
    if (has(ours)) u32(key, c_.at(ours).get<std::int64_t>());
  }
  void f32_of(const std::string& key, const char* ours) {
    if (has(ours)) f32(key, c_.at(ours).get<double>());
  }
  std::int64_t heads() const { return c_.value("num_attention_heads", std::int64_t{8}); }
  std::int64_t head_dim() const {
    return has("head_dim") ? c_.at("head_dim").get<std::int64_t>() : c_.at("hidden_size").get<std::int64_t>() / heads();
  }
  bool latent() const { return has("kv_lora_rank"); }
  const core::Json* scaling() const { return has("rope_scaling") ? &c_.at("rope_scaling") : nullptr; }

  void add_keys() {
    u32_of("block_count", "num_hidden_layers");
    u32_of("context_length", "max_position_embeddings");
    u32_of("embedding_length", "hidden_size");
    u32_of("feed_forward_length", "intermediate_size");
    u32_of("vocab_size", "vocab_size");
    u32("attention.head_count", heads());
    f32_of("attention.layer_norm_rms_epsilon", "rms_norm_eps");
    f32_of("attention.layer_norm_epsilon", "layer_norm_eps");
    f32("rope.freq_base", c_.value("rope_theta", 10000.0));
    f32_of("rope.freq_base_swa", "rope_local_base_freq");
    if (latent()) {
      const std::int64_t rank = c_.at("kv_lora_rank").get<std::int64_t>(),
                         rope = c_.at("qk_rope_head_dim").get<std::int64_t>(),
                         nope = c_.at("qk_nope_head_dim").get<std::int64_t>(),
                         value = c_.at("v_head_dim").get<std::int64_t>();
      u32("attention.head_count_kv", split_kv_ ? 1 : heads());
      u32("attention.kv_lora_rank", rank);
      u32_of("attention.q_lora_rank", "q_lora_rank");
      u32("attention.key_length", split_kv_ ? rank + rope : nope + rope);
      u32("attention.value_length", split_kv_ ? rank : value);
      if (split_kv_) u32("attention.key_length_mla", nope + rope);
      if (split_kv_) u32("attention.value_length_mla", value);
      u32("rope.dimension_count", rope);
    } else {
      u32("attention.head_count_kv", c_.value("num_key_value_heads", heads()));
      u32("attention.key_length", head_dim());
      u32("attention.value_length", head_dim());
      const double part = c_.value("partial_rotary_factor", 1.0);
      u32("rope.dimension_count", static_cast<std::int64_t>(part * static_cast<double>(head_dim())));
    }
    if (c_.at("model_type") ==
        "qwen3_vl_text") {  // of pictures: the parts of a head that turn by each of four positions
      u32("n_deepstack_layers", 0);
      std::string sections = bytes_of(std::uint32_t{5}) + bytes_of(std::uint64_t{4});
      for (const std::int32_t one : {4, 3, 3, 0}) sections += bytes_of(one);
      writer_.entry(arch_ + ".rope.dimension_sections", 9, sections);
    }
    add_windows();
    add_experts();
    add_scaling();
    // Granite, Cohere 2, Gemma 2.
    f32_of("attention.scale", "attention_multiplier");
    f32_of("embedding_scale", "embedding_multiplier");
    f32_of("residual_scale", "residual_multiplier");
    f32_of("logit_scale", "logits_scaling");
    f32_of("logit_scale", "logit_scale");
    f32_of("attn_logit_softcapping", "attn_logit_softcapping");
    f32_of("final_logit_softcapping", "final_logit_softcapping");
  }

  void add_windows() {
    const std::string type = c_.at("model_type");
    if (type == "phi3") u32("attention.sliding_window", has("sliding_window") ? c_["sliding_window"].get<int>() : 0);
    if (type != "gemma2" && type != "gemma3_text" && type != "cohere2" && type != "gpt_oss") return;
    u32_of("attention.sliding_window", "sliding_window");
    std::string flags;
    for (const core::Json& one : c_.at("layer_types")) flags += static_cast<char>(one == "sliding_attention" ? 1 : 0);
    // Where it is what the architecture does anyway, the key is left out as the converter leaves it out.
    if (type == "gemma2" || type == "gpt_oss") return;
    writer_.entry(arch_ + ".attention.sliding_window_pattern", 9,
                  bytes_of(std::uint32_t{7}) + bytes_of(static_cast<std::uint64_t>(flags.size())) + flags);
  }

  void add_experts() {
    for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) u32_of("expert_count", key);
    u32_of("expert_used_count", "num_experts_per_tok");
    u32_of("expert_feed_forward_length", "moe_intermediate_size");
    if (c_.at("model_type") == "gpt_oss") u32_of("expert_feed_forward_length", "intermediate_size");
    u32_of("expert_shared_feed_forward_length", "shared_expert_intermediate_size");
    if (!has("n_routed_experts")) return;
    u32_of("expert_shared_count", "n_shared_experts");
    u32_of("leading_dense_block_count", "first_k_dense_replace");
    u32_of("expert_group_count", "n_group");
    u32_of("expert_group_used_count", "topk_group");
    f32_of("expert_weights_scale", "routed_scaling_factor");
    if (c_.at("norm_topk_prob").get<bool>()) flag("expert_weights_norm", true);
    u32("expert_gating_func", 2);
  }

  void add_scaling() {
    const core::Json* s = scaling();
    if (s == nullptr) return;
    const std::string type = s->contains("rope_type") ? s->at("rope_type") : s->at("type");
    if (type == "linear" || type == "yarn") {
      writer_.text(arch_ + ".rope.scaling.type", type);
      f32("rope.scaling.factor", s->at("factor").get<double>());
    }
    if (type == "yarn") {
      u32("rope.scaling.original_context_length", s->at("original_max_position_embeddings").get<std::int64_t>());
      if (s->contains("beta_fast")) f32("rope.scaling.yarn_beta_fast", s->at("beta_fast").get<double>());
      if (s->contains("beta_slow")) f32("rope.scaling.yarn_beta_slow", s->at("beta_slow").get<double>());
      if (s->contains("mscale_all_dim"))
        f32("rope.scaling.yarn_log_multiplier", 0.1 * s->at("mscale_all_dim").get<double>());
    }
    if (type == "longrope") {
      writer_.text(arch_ + ".rope.scaling.type", type);
      const double original = c_.at("original_max_position_embeddings").get<double>(),
                   scale = c_.at("max_position_embeddings").get<double>() / original;
      u32("rope.scaling.original_context_length", static_cast<std::int64_t>(original));
      f32("rope.scaling.attn_factor", std::sqrt(1 + std::log(scale) / std::log(original)));
      for (const auto& [name, key] :
           {std::pair{"rope_factors_long.weight", "long_factor"}, {"rope_factors_short.weight", "short_factor"}}) {
        const Values values = s->at(key).get<Values>();
        tensor(name, {static_cast<std::int64_t>(values.size())}, values);
      }
    }
  }

  // Tensors.
  void tensor(const std::string& name, const core::Shape& shape, const Values& values) {
    writer_.tensor(name, 0, shape, encode(core::DType::f32, values));
  }

  void add(const model::TensorSpec& spec) {
    Values values(static_cast<std::size_t>(core::element_count(spec.shape).value()));
    source_.read(spec, values);
    if (convention_.plus_one && spec.name.ends_with("norm.weight"))
      for (float& value : values) value += 1;
    const std::string blocks = "model.layers.";
    if (!spec.name.starts_with(blocks)) {
      tensor(spec.name == "lm_head.weight"      ? "output.weight"
             : spec.name == "model.norm.weight" ? "output_norm.weight"
                                                : "token_embd.weight",
             spec.shape, values);
      return;
    }
    const std::size_t dot = spec.name.find('.', blocks.size());
    std::string prefix = "blk.", tail = spec.name.substr(dot + 1), ending;
    prefix += spec.name.substr(blocks.size(), dot - blocks.size()) + ".";
    for (const char* one : {".weight", ".bias"})
      if (tail.ends_with(one)) {
        ending = one;
        tail.resize(tail.size() - ending.size());
      }
    fold(tail, values, spec.shape);
    if (convention_.pairs && tail == "self_attn.q_proj") values = pairs(values, heads());
    if (convention_.pairs && tail == "self_attn.k_proj")
      values = pairs(values, c_.value("num_key_value_heads", heads()));
    if (tail == "self_attn.kv_b_proj" && split_kv_) return add_split(prefix, values);
    const std::string experts = ".experts.";
    const std::size_t expert = tail.find(experts);
    if (expert != std::string::npos) {
      const std::size_t begin = expert + experts.size();
      tail.replace(begin, tail.find('.', begin) - begin, "*");
      auto& [shape, all] = stacks_[prefix + name_of(tail) + ending];
      if (shape.empty()) {
        shape = spec.shape;
        shape.insert(shape.begin(), 0);
      }
      ++shape.front();
      all.insert(all.end(), values.begin(), values.end());
      return;
    }
    core::Shape shape = spec.shape;
    if (tail == "mlp.shared_expert_gate") shape.erase(shape.begin());  // one row is none
    tensor(prefix + name_of(tail) + ending, shape, values);
  }

  std::string name_of(const std::string& tail) const {
    const auto own = convention_.names.find(tail);
    return own != convention_.names.end() ? own->second : gguf_names().at(tail);
  }

  /// What GGUF has no key for.
  void fold(const std::string& tail, Values& values, const core::Shape& shape) const {
    const double by = has("query_pre_attn_scalar")
                          ? std::sqrt(static_cast<double>(head_dim()) / c_.at("query_pre_attn_scalar").get<double>())
                          : 1;
    const bool on_norm = c_.at("model_type") == "gemma3_text";
    if (tail == (on_norm ? "self_attn.q_norm" : "self_attn.q_proj"))
      for (float& value : values) value = static_cast<float>(value * by);
    // DeepSeek's cosines and sines, where "mscale" is not "mscale_all_dim".
    const core::Json* s = scaling();
    if (s == nullptr || !s->contains("mscale")) return;
    const double log = 0.1 * std::log(s->at("factor").get<double>());
    const double factor = (s->at("mscale").get<double>() * log + 1) / (s->at("mscale_all_dim").get<double>() * log + 1);
    const std::int64_t rope = c_.at("qk_rope_head_dim").get<std::int64_t>(),
                       head = c_.at("qk_nope_head_dim").get<std::int64_t>() + rope;
    const bool queries = tail == "self_attn.q_proj" || tail == "self_attn.q_b_proj";
    if (!queries && tail != "self_attn.kv_a_proj_with_mqa") return;
    const std::int64_t period = queries ? head : shape.at(0);
    for (std::int64_t row = 0; row < shape.at(0); ++row)
      if (row % period >= period - rope)
        for (std::int64_t i = row * shape.at(1); i < (row + 1) * shape.at(1); ++i)
          values[static_cast<std::size_t>(i)] = static_cast<float>(values[static_cast<std::size_t>(i)] * factor);
  }

  /// Row h d + a d / 2 + i of halves becomes row h d + 2 i + a of pairs.
  Values pairs(const Values& values, std::int64_t n_heads) const {
    const std::size_t all = values.size(), head = all / static_cast<std::size_t>(n_heads);
    Values out(all);
    const std::size_t rows = static_cast<std::size_t>(head_dim()), width = head / rows;
    for (std::size_t start = 0; start < all; start += head)
      for (std::size_t a = 0; a < 2; ++a)
        for (std::size_t i = 0; i < rows / 2; ++i)
          for (std::size_t c = 0; c < width; ++c)
            out[start + (2 * i + a) * width + c] = values[start + (a * rows / 2 + i) * width + c];
    return out;
  }

  void add_split(const std::string& prefix, const Values& values) {
    const auto n_heads = heads(), nope = c_.at("qk_nope_head_dim").get<std::int64_t>(),
               value = c_.at("v_head_dim").get<std::int64_t>(), rank = c_.at("kv_lora_rank").get<std::int64_t>();
    Values k, v;
    for (std::int64_t h = 0; h < n_heads; ++h) {
      const auto at = [&](std::int64_t row, std::int64_t column) {
        return values[static_cast<std::size_t>((h * (nope + value) + row) * rank + column)];
      };
      for (std::int64_t column = 0; column < rank; ++column)
        for (std::int64_t row = 0; row < nope; ++row) k.push_back(at(row, column));
      for (std::int64_t row = nope; row < nope + value; ++row)
        for (std::int64_t column = 0; column < rank; ++column) v.push_back(at(row, column));
    }
    tensor(prefix + "attn_k_b.weight", {n_heads, rank, nope}, k);
    tensor(prefix + "attn_v_b.weight", {n_heads, value, rank}, v);
  }

  const model::WeightSource& source_;
  core::Json c_;
  const GgufConvention& convention_;
  std::string arch_;
  bool split_kv_;
  GgufWriter writer_;
  std::map<std::string, std::pair<core::Shape, Values>> stacks_;  ///< experts of a layer
};

}  // namespace voronoi::test
