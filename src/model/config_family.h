// What the classes of architectures say where config.json is silent, and the parts that read it. Private to
// model/config*.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/config_keys.h"

namespace voronoi::model {

/// by_key: q, k, v and o as "attention_bias" says; qkv_by_attention: q, k and v as it says; qkv_by_key: q, k and v as
/// "qkv_bias" says, with them by default.
enum class Biases { none, qkv, by_key, qkv_by_attention, qkv_by_key };
/// by_layer: "use_sliding_window" with "layer_types" or "max_window_layers"; alternating: "layer_types" or every layer
/// but each `full_every`-th; off: must not be asked for.
enum class AttentionWindows { none, all, by_layer, alternating, off };
enum class Mixture { none, mixtral, qwen, deepseek, gpt_oss, llama4 };
/// What is done to the norms of a block: before each half, and after it; after alone; as Glm4 names the four; one for
/// both halves, which stand beside each other.
enum class NormPlaces { before, around, after, glm, parallel };

/// The defaults of the configuration classes in transformers 4.57, which leaves keys equal to them out of the file.
struct Family {
  std::string_view model_type, class_name;
  std::int64_t n_heads = 0, vocab_size = 0;  ///< 0: must be said
  std::int64_t n_kv_heads = 0;               ///< 0: as many as heads
  std::int64_t head_dim = 0;                 ///< 0: hidden / heads
  std::int64_t max_position = 0;
  std::int64_t window = 0;      ///< 0: none
  std::int64_t full_every = 2;  ///< of alternating windows
  std::int64_t bos_id = -1;     ///< below 0: none
  double norm_eps = 1e-6, theta = 10000;
  Biases biases = Biases::none;
  bool attention_bias = false;  ///< where the key is absent
  bool mlp_bias_key = false, qk_norm = false, qk_norm_key = false, tied = false;
  AttentionWindows windows = AttentionWindows::none;
  Mixture mixture = Mixture::none;
  bool shared_expert = false;
  bool renormalise = false;  ///< where "norm_topk_prob" is absent; of Qwen's mixtures
  bool fused_qkv = false, fused_gate_up = false;
  bool gemma = false;  ///< scaled embedding, norms by 1 + weight, tanh gelu
  bool soft_caps = false, query_scalar = false;
  double soft_cap = 0, logit_cap = 0;  ///< where the keys are absent
  NormPlaces norms = NormPlaces::before;
  bool rope_interleaved = false;
  double turned = 1;             ///< share of a head where "partial_rotary_factor" is absent; 1 and not partial: all
  bool partial_rotary = false;   ///< "partial_rotary_factor" is a key
  bool local_rope = false;       ///< windowed layers have "rope_local_base_freq"
  bool rope_in_windows = false;  ///< full layers have none
  bool multipliers = false;      ///< Granite's
  bool latent = false;
  bool norm_plus_one = false;  ///< as Gemma's
  bool attention_gate = false;
  bool delta = false;  ///< layers of the delta rule, but each `full_every`-th
};

std::span<const Family> families();

/// A language model in the checkpoint of a model of several kinds of input.
struct Wrapper {
  std::string_view model_type, text_type;
};
std::span<const Wrapper> wrappers();

// No model comes near these; they keep every product of two of them far from overflow.
inline constexpr std::int64_t kMaxLayers = 100'000, kMaxWidth = 10'000'000, kMaxHeads = 100'000;
inline constexpr std::int64_t kMaxPosition = std::int64_t{1} << 40;
inline constexpr std::int64_t kMaxExperts = 65'536, kMaxExpertsInAll = 200'000;

/// A key that nobody knows may ask for another model than the one that is computed.
void warn_of_unknown(const std::string& file, const std::string& model_type, const std::vector<std::string>& keys);

// Parts of parse_config(); each takes what those before it set.
/// rope, local_rope, n_turned, rope_interleaved; of head_dim, latent and max_position.
void parse_rope(const Keys& keys, const Family& family, ModelConfig& config);
/// window, chunk, delta, layer_rope, query_growth.
void parse_layers(const Keys& keys, const Family& family, ModelConfig& config);
/// mixture; sets intermediate_size where the key is another.
void parse_mixture(const Keys& keys, const Family& family, ModelConfig& config);
/// Where a key that is no list of one entry a layer is refused; null: absent.
const core::Json* layer_list(const Keys& keys, std::string_view key, std::int64_t n_layers);

}  // namespace voronoi::model
