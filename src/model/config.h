// What a model is, as data: one struct for every architecture, filled from config.json or GGUF metadata.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/types.h"

namespace voronoi::model {

enum class Activation { silu, gelu_tanh };
enum class RopeScaling { none, linear, llama3, yarn };

struct RopeConfig {
  double theta = 10000;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;
  // llama3
  double low_freq_factor = 1, high_freq_factor = 4;
  // llama3, yarn: positions the model was trained on before stretching
  double original_max_position = 0;
  // yarn
  double beta_fast = 32, beta_slow = 1;
  std::optional<double> attention_factor;  ///< multiplies cos and sin; by default 0.1 ln(factor) + 1
};

/// Mixture of experts: in some layers a router sends each token to a few of many feed-forward parts.
struct MixtureConfig {
  std::int64_t n_experts = 0;                     ///< 0: no layer is a mixture
  std::int64_t top_k = 0;                         ///< experts a token
  std::int64_t expert_size = 0, shared_size = 0;  ///< inner widths; shared_size: of the expert of all tokens, 0 = none
  bool renormalise = false;                       ///< the chosen weights are divided by their sum
  std::vector<bool> layers;                       ///< a layer each: whether it is a mixture
  std::string module, gate, up, down;             ///< names: "mlp", "gate_proj", "up_proj", "down_proj"
};

struct ModelConfig {
  std::string model_type;  ///< "llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe", "gemma", ...
  std::int64_t hidden_size = 0, intermediate_size = 0, n_layers = 0;
  std::int64_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
  std::int64_t vocab_size = 0, max_position = 0;
  double norm_eps = 0;
  RopeConfig rope;
  Activation activation = Activation::silu;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;
  bool tied_embeddings = false;
  bool fused_projections = false;  ///< q, k, v are one matrix, gate and up another
  bool norm_plus_one = false;      ///< norms multiply by 1 + weight
  bool post_norms = false;         ///< norms also after attention and feed-forward, before they are added
  double embedding_scale = 1;
  std::optional<double> query_pre_attn_scalar;      ///< q.k is divided by its root; head_dim unless given
  double attention_softcap = 0, logit_softcap = 0;  ///< x counts as cap tanh(x / cap); 0 = no cap
  MixtureConfig mixture;
  std::vector<std::int64_t> window;  ///< a layer each: keys a query sees; 0 = all
  std::optional<std::int64_t> bos_id;
  std::vector<std::int64_t> end_ids;  ///< ids that end a text; may be empty
  core::DType stored_dtype =
      core::DType::f16;  ///< 16-bit type for codebooks and scales of its quantized form (f16 unless BF16)
};

/// Parses and checks a config.json. Every fault throws FormatError naming file, key, what was found and what is wanted;
/// an unknown architecture is refused by name with the list of supported ones.
ModelConfig parse_config(const core::Json& json, const std::string& file);

/// Adds the ids that generation_config.json of a folder, where it is, lets end a text: instruction models name the end
/// of a turn there alone. Throws FormatError.
void add_generation_ends(const std::string& folder, ModelConfig& config);

/// Hugging Face's class for a model_type that parse_config() takes ("LlamaForCausalLM").
std::string_view class_name(std::string_view model_type);

/// One linear layer of a block; `name` is the full module path ("model.layers.3.self_attn.q_proj"), its tensors are
/// name + ".weight" [out_features, in_features] and, with has_bias, name + ".bias" [out_features].
struct LinearSpec {
  std::string name;
  std::int64_t out_features = 0, in_features = 0;
  bool has_bias = false;
};

/// Linears of a block that share one input, hence one Hessian: "qkv", "o", "gate_up", "down"; in a mixture
/// "expert.E.gate_up", "expert.E.down" for each expert E, "shared_expert.gate_up", "shared_expert.down". Fused
/// projections are one linear, and are quantized as one.
struct SiteSpec {
  std::string name;
  std::int64_t in_features = 0;
  std::vector<LinearSpec> linears;
  std::int64_t expert = -1;  ///< the routed expert it belongs to, which sees its own tokens only; -1: sees every token
};

/// Places in block_sites of every block. After them come pairs of gate_up and down: one in a dense block, one an expert
/// in a mixture, then the shared expert's.
enum SiteIndex : std::size_t { kQkvSite, kOSite, kFirstGateUpSite };

bool is_mixture(const ModelConfig& config, std::int64_t layer);

/// The sites of a block in execution order.
std::vector<SiteSpec> block_sites(const ModelConfig& config, std::int64_t layer);
/// Linears of all blocks, in the order of the model.
std::vector<LinearSpec> block_linears(const ModelConfig& config);

struct TensorSpec {
  std::string name;
  core::Shape shape;
};

/// Every tensor the forward pass reads (embedding, norms, linears, biases, q/k norms, routers, final norm, head unless
/// tied).
std::vector<TensorSpec> expected_tensors(const ModelConfig& config);

}  // namespace voronoi::model
