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

/// clamped_silu: NnKernels::clamped_swiglu.
enum class Activation { silu, gelu_tanh, clamped_silu };
/// rms: over the root of the mean square; layer: after the mean was subtracted.
enum class NormKind { rms, layer };
enum class RopeScaling { none, linear, llama3, yarn, dynamic, longrope };

struct RopeConfig {
  double theta = 10000;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;
  // llama3
  double low_freq_factor = 1, high_freq_factor = 4;
  // llama3, yarn, dynamic, longrope: positions the model was trained on before stretching
  double original_max_position = 0;
  // yarn
  double beta_fast = 32, beta_slow = 1;
  bool truncate = true;  ///< the ends of the ramp are rounded to whole pairs
  /// yarn, longrope: multiplies cos and sin; by default 0.1 ln(factor) + 1, and sqrt(1 + ln(factor) / ln(original))
  std::optional<double> attention_factor;
  /// longrope: divisors of the frequencies, one a pair: in sequences of up to original_max_position tokens, and longer
  std::vector<double> short_factor, long_factor;
};

/// What a layer turns queries and keys by: ModelConfig::rope, its local_rope, or nothing.
enum class LayerRope : std::uint8_t { main, local, none };

/// How the checkpoint holds the experts of a layer: a linear each, or all in one tensor [experts, in, out] whose
/// columns of gate and up are two halves, or alternate.
enum class ExpertStorage : std::uint8_t { linears, halves, interleaved };

/// Mixture of experts: in some layers a router sends each token to a few of many feed-forward parts.
struct MixtureConfig {
  std::int64_t n_experts = 0;                     ///< 0: no layer is a mixture
  std::int64_t top_k = 0;                         ///< experts a token
  std::int64_t expert_size = 0, shared_size = 0;  ///< inner widths; shared_size: of the expert of all tokens, 0 = none
  bool renormalise = false;                       ///< the chosen weights are divided by their sum
  bool sigmoid = false;                           ///< weights are sigmoids, see kernels::RouteShape
  std::int64_t n_groups = 1, top_groups = 1;      ///< of neighbouring experts, and how many stay
  double factor = 1;                              ///< on the weights
  bool weighs_input = false;                      ///< a weight multiplies what enters the expert, not what leaves it
  bool shared_gate = true;                        ///< the shared expert has a gate of its own
  bool expert_bias = false;                       ///< the experts' linears have biases
  ExpertStorage storage = ExpertStorage::linears;
  std::vector<bool> layers;            ///< a layer each: whether it is a mixture
  std::string module, gate, up, down;  ///< names: "mlp", "gate_proj", "up_proj", "down_proj"
  std::string router = "gate", shared = "shared_expert";
  std::string router_bias;  ///< of the tensor that is added to the logits; empty: none
  std::string choice_bias;  ///< of the tensor that is added for the choice alone; empty: none
};

/// Names of a block's norms, without ".weight"; an empty one is none.
struct NormNames {
  std::string input = "input_layernorm", attention_out, feed_forward = "post_attention_layernorm", feed_forward_out;
};

/// Latent attention (DeepSeek-AI 2024, V2, section 2.1): queries, keys and values come from normed vectors of low rank.
/// A head of q and k is `nope` values and then `rope` turned ones, those of k the same for all heads.
struct LatentConfig {
  std::int64_t kv_rank = 0;  ///< 0: attention is of the usual kind
  std::int64_t q_rank = 0;   ///< 0: queries come from the block's input
  std::int64_t nope = 0, rope = 0, value = 0;
};

/// Layers without attention, whose memory does not grow: kernels/delta_rule.h.
struct DeltaConfig {
  std::int64_t key_heads = 0, value_heads = 0;  ///< 0: no layer is one
  std::int64_t key_dim = 0, value_dim = 0;      ///< of a head
  std::int64_t width = 0;                       ///< tokens that the convolution sees
  std::vector<bool> layers;                     ///< a layer each: whether it is one

  std::int64_t keys() const { return key_heads * key_dim; }
  std::int64_t values() const { return value_heads * value_dim; }
  std::int64_t channels() const { return 2 * keys() + values(); }  ///< of the convolution: queries, keys, values
};

struct ModelConfig {
  std::string model_type;  ///< "llama", "mistral", "qwen2", ...; of a language model within a wrapper its own
  std::string wrapper;     ///< the wrapper's ("gemma3"); empty: none
  std::int64_t hidden_size = 0, intermediate_size = 0, n_layers = 0;
  std::int64_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
  std::int64_t vocab_size = 0, max_position = 0;
  double norm_eps = 0;
  NormKind norm_kind = NormKind::rms;
  RopeConfig rope, local_rope;
  std::vector<LayerRope> layer_rope;  ///< a layer each
  std::int64_t n_turned = 0;          ///< values of a head that rope turns: the first, or behind latent.nope ones
  bool rope_interleaved = false;      ///< neighbours are pairs
  Activation activation = Activation::silu;
  double gate_limit = 0;  ///< of clamped_silu
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;        ///< queries and keys are normed, head by head
  bool qk_norm_whole = false;  ///< over all heads instead
  bool qk_norm_plain = false;  ///< their norms have no weight, and are in layers with rope alone
  bool sinks = false;          ///< see kernels::AttentionShape
  bool attention_gate =
      false;  ///< q_proj gives each head a gate behind its query; its sigmoid is on attention's result
  bool tied_embeddings = false;
  bool fused_qkv = false, fused_gate_up = false;  ///< q, k, v are one matrix; gate and up are
  bool norm_plus_one = false;                     ///< norms multiply by 1 + weight
  NormNames norms;
  bool parallel_block = false;  ///< attention and feed-forward both take the normed input of the block
  std::string feed_forward_module = "mlp";
  double embedding_scale = 1, residual_scale = 1, logit_scale = 1;  ///< factors on what they name
  double attention_scale = 1;                                       ///< on q.k
  double attention_softcap = 0, logit_softcap = 0;                  ///< x counts as cap tanh(x / cap); 0 = no cap
  MixtureConfig mixture;
  LatentConfig latent;
  DeltaConfig delta;
  std::vector<std::int64_t> window;  ///< a layer each: keys a query sees; 0 = all
  std::vector<std::int64_t> chunk;   ///< a layer each: positions of a chunk, outside of which nothing is seen; 0 = all
  /// In layers without rope a query at position p counts 1 + query_growth ln(1 + floor((p + 1) / query_floor)); 0: 1.
  double query_growth = 0, query_floor = 1;
  std::int64_t n_extra_layers = 0;  ///< for multi-token prediction, behind the others; not read
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
/// "expert.E.gate_up", "expert.E.down" for each expert E, "shared_expert.gate_up", "shared_expert.down"; in latent
/// attention "qkv" makes the vectors of low rank, and "q_b" and "kv_b" take them. Fused projections are one linear, and
/// are quantized as one; of experts that a checkpoint fuses each has its own. In the place of "qkv" and "o" a layer of
/// the delta rule has "linear.in" and "linear.out"; what its gates are made by is small and is not quantized.
struct SiteSpec {
  std::string name;
  std::int64_t in_features = 0;
  std::vector<LinearSpec> linears;
  std::int64_t expert = -1;  ///< the routed expert it belongs to, which sees its own tokens only; -1: sees every token
};

/// Places in block_sites of every block; q_b and kv_b only where attention is latent. Behind them are pairs of gate_up
/// and down: one in a dense block, one an expert in a mixture, then the shared expert's.
struct SitePlaces {
  std::size_t qkv = 0, q_b = 0, kv_b = 0, o = 0, gate_up = 0;
};
SitePlaces site_places(const ModelConfig& config);

bool is_mixture(const ModelConfig& config, std::int64_t layer);
/// Whether the delta rule is in the place of attention.
bool is_delta(const ModelConfig& config, std::int64_t layer);

/// The sites of a block in execution order.
std::vector<SiteSpec> block_sites(const ModelConfig& config, std::int64_t layer);
/// Linears of all blocks, in the order of the model.
std::vector<LinearSpec> block_linears(const ModelConfig& config);

struct TensorSpec {
  std::string name;
  core::Shape shape;
};

/// Every tensor the forward pass reads (embedding, norms, linears, biases, q/k norms, routers, what the delta rule has
/// besides, final norm, head unless tied).
std::vector<TensorSpec> expected_tensors(const ModelConfig& config);

}  // namespace voronoi::model
