// Names of tensors in GGUF files (gguf-py's table of tensors in ggml-org/llama.cpp).
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "model/gguf_families.h"

namespace voronoi::model {
namespace {

struct NamePair {
  std::string_view ours, gguf;
};
constexpr std::array<NamePair, 3> kModelNames{
    {{"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}}};
constexpr auto kBlockNames = std::to_array<NamePair>({{"self_attn.q_proj", "attn_q"},
                                                      {"self_attn.k_proj", "attn_k"},
                                                      {"self_attn.v_proj", "attn_v"},
                                                      {"self_attn.qkv_proj", "attn_qkv"},
                                                      {"self_attn.o_proj", "attn_output"},
                                                      {"self_attn.q_norm", "attn_q_norm"},
                                                      {"self_attn.k_norm", "attn_k_norm"},
                                                      {"self_attn.q_a_proj", "attn_q_a"},
                                                      {"self_attn.q_a_layernorm", "attn_q_a_norm"},
                                                      {"self_attn.q_b_proj", "attn_q_b"},
                                                      {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
                                                      {"self_attn.kv_a_layernorm", "attn_kv_a_norm"},
                                                      {"self_attn.kv_b_proj", "attn_kv_b"},
                                                      {"mlp.gate_proj", "ffn_gate"},
                                                      {"mlp.up_proj", "ffn_up"},
                                                      {"mlp.gate_up_proj", "ffn_up"},
                                                      {"mlp.down_proj", "ffn_down"}});

/// A block's tensors by their names behind "model.layers.N." up to the last dot.
struct Inner {
  std::string_view layer, module, ending;
};

std::string block_tensor(const Inner& inner, std::string_view gguf, std::string_view suffix = "") {
  return fmt::format("blk.{}.{}{}{}", inner.layer, gguf, suffix, inner.ending);
}

std::string_view norm_name(const ModelConfig& config, const GgufFamily& family, std::string_view module) {
  const NormNames& norms = config.norms;
  if (module == norms.input) return "attn_norm";
  if (module == norms.attention_out) return "post_attention_norm";
  if (module == norms.feed_forward) return family.feed_forward_norm;
  if (module == norms.feed_forward_out) return "post_ffw_norm";
  return "";
}

/// "ffn_gate" and its kin of a linear of an expert.
std::string_view expert_linear(const MixtureConfig& mixture, std::string_view linear) {
  if (linear == mixture.gate) return "ffn_gate";
  if (linear == mixture.up) return "ffn_up";
  return linear == mixture.down ? "ffn_down" : "";
}

GgufPlace in_mixture(const MixtureConfig& mixture, const Inner& inner, std::string_view module) {
  if (module == mixture.router) {
    // What corrects the choice is a tensor of the router's in config.json's class.
    if (fmt::format("{}{}", module, inner.ending) == mixture.choice_bias)
      return {fmt::format("blk.{}.exp_probs_b.bias", inner.layer), -1};
    return {block_tensor(inner, "ffn_gate_inp"), -1};
  }
  if (module == "shared_expert_gate") return {block_tensor(inner, "ffn_gate_inp_shexp"), -1};
  const std::size_t dot = module.rfind('.');
  if (dot == std::string_view::npos) return {};
  const std::string_view linear = expert_linear(mixture, module.substr(dot + 1));
  const std::string_view owner = module.substr(0, dot);
  if (linear.empty()) return {};
  if (owner == mixture.shared) return {block_tensor(inner, linear, "_shexp"), -1};
  constexpr std::string_view kExperts = "experts.";
  if (!owner.starts_with(kExperts)) return {};
  std::int64_t expert = -1;
  const char* end = owner.data() + owner.size();
  if (const auto read = std::from_chars(owner.data() + kExperts.size(), end, expert);
      read.ec != std::errc{} || read.ptr != end || expert < 0)
    return {};
  return {block_tensor(inner, linear, "_exps"), expert};
}

}  // namespace

GgufPlace gguf_place(const ModelConfig& config, const GgufFamily& family, std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return {};
  for (const NamePair& pair : kModelNames)
    if (pair.ours == name.substr(0, dot)) return {std::string(pair.gguf) + std::string(name.substr(dot)), -1};
  constexpr std::string_view kBlocks = "model.layers.";
  if (!name.starts_with(kBlocks)) return {};
  const std::string_view behind = name.substr(kBlocks.size());
  const std::size_t number_end = behind.find('.');
  if (number_end == std::string_view::npos || kBlocks.size() + number_end >= dot) {
    return {};
  }
  const Inner inner{behind.substr(0, number_end),
                    name.substr(kBlocks.size() + number_end + 1, dot - kBlocks.size() - number_end - 1),
                    name.substr(dot)};
  if (name.ends_with(".self_attn.sinks")) return {fmt::format("blk.{}.attn_sinks.weight", inner.layer), -1};
  if (const std::string_view norm = norm_name(config, family, inner.module); !norm.empty())
    return {block_tensor(inner, norm), -1};
  for (const NamePair& pair : kBlockNames)
    if (pair.ours == inner.module) return {block_tensor(inner, pair.gguf), -1};
  const std::string module = config.mixture.module + ".";
  if (config.mixture.n_experts > 0 && inner.module.starts_with(module))
    return in_mixture(config.mixture, inner, inner.module.substr(module.size()));
  return {};
}

std::vector<std::string> gguf_split_names(std::string_view name) {
  constexpr std::string_view kEnding = ".self_attn.kv_b_proj.weight", kBlocks = "model.layers.";
  if (!name.starts_with(kBlocks) || !name.ends_with(kEnding)) return {};
  const std::string_view layer = name.substr(kBlocks.size(), name.size() - kBlocks.size() - kEnding.size());
  return {fmt::format("blk.{}.attn_k_b.weight", layer), fmt::format("blk.{}.attn_v_b.weight", layer)};
}

}  // namespace voronoi::model
