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

enum class Activation { silu };
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

struct ModelConfig {
  std::string model_type;  ///< "llama", "mistral", "qwen2", "qwen3"
  std::int64_t hidden_size = 0, intermediate_size = 0, n_layers = 0;
  std::int64_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
  std::int64_t vocab_size = 0, max_position = 0;
  double norm_eps = 0;
  RopeConfig rope;
  Activation activation = Activation::silu;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;
  bool tied_embeddings = false;
  std::vector<std::int64_t> window;  ///< a layer each: keys a query sees; 0 = all
  std::optional<std::int64_t> bos_id;
  core::DType stored_dtype =
      core::DType::f16;  ///< 16-bit type for codebooks and scales of its quantized form (f16 unless BF16)
};

/// Parses and checks a config.json. Every fault throws FormatError naming file, key, what was found and what is wanted;
/// an architecture that is known but not supported yet (mixtral, qwen2_moe, qwen3_moe, gemma, gemma2, phi3) or unknown
/// is refused by name with the list of supported ones.
ModelConfig parse_config(const core::Json& json, const std::string& file);

/// Hugging Face's class for a model_type that parse_config() takes ("LlamaForCausalLM").
std::string_view class_name(std::string_view model_type);

/// One linear layer of a block; `name` is the full module path ("model.layers.3.self_attn.q_proj"), its tensors are
/// name + ".weight" [out_features, in_features] and, with has_bias, name + ".bias" [out_features].
struct LinearSpec {
  std::string name;
  std::int64_t out_features = 0, in_features = 0;
  bool has_bias = false;
};

/// Linears of a block that share one input, hence one Hessian: "qkv", "o", "gate_up", "down".
struct SiteSpec {
  std::string name;
  std::int64_t in_features = 0;
  std::vector<LinearSpec> linears;
};

/// The sites of a block in execution order.
std::vector<SiteSpec> block_sites(const ModelConfig& config, std::int64_t layer);

struct TensorSpec {
  std::string name;
  core::Shape shape;
};

/// Every tensor the forward pass reads (embedding, norms, linears, biases, q/k norms, final norm, head unless tied).
std::vector<TensorSpec> expected_tensors(const ModelConfig& config);

}  // namespace voronoi::model
