#include "model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "model/config_keys.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::Json;

/// by_key: q, k, v and o as "attention_bias" says; qkv_by_key: q, k and v as "qkv_bias" says, with them by default.
enum class Biases { none, qkv, by_key, qkv_by_key };
/// by_layer: "use_sliding_window" with "layer_types" or "max_window_layers"; alternating: "layer_types" or every second
/// layer from the first on; off: must not be asked for.
enum class AttentionWindows { none, all, by_layer, alternating, off };
enum class Mixture { none, mixtral, qwen };

/// What the class of an architecture says where config.json is silent: the defaults of the configuration classes in
/// transformers 4.57, which leaves keys equal to them out of the file.
struct Family {
  std::string_view model_type, class_name;
  std::int64_t n_kv_heads = 0;  ///< 0: as many as heads
  std::int64_t head_dim = 0;    ///< 0: hidden / heads
  std::int64_t max_position = 0;
  std::int64_t window = 0;   ///< 0: none
  std::int64_t bos_id = -1;  ///< below 0: none
  double norm_eps = 1e-6, theta = 10000;
  Biases biases = Biases::none;
  bool mlp_bias_key = false, qk_norm = false;
  AttentionWindows windows = AttentionWindows::none;
  Mixture mixture = Mixture::none;
  bool shared_expert = false;
  bool fused_projections = false;
  bool gemma = false;       ///< scaled embedding, norms by 1 + weight, tanh gelu, tied
  bool post_norms = false;  ///< with them come the soft caps and "query_pre_attn_scalar"
};

constexpr std::array<Family, 10> kFamilies{{
    {.model_type = "llama",
     .class_name = "LlamaForCausalLM",
     .max_position = 2048,
     .bos_id = 1,
     .biases = Biases::by_key,
     .mlp_bias_key = true},
    {.model_type = "mistral",
     .class_name = "MistralForCausalLM",
     .n_kv_heads = 8,
     .max_position = 131072,
     .window = 4096,
     .bos_id = 1,
     .windows = AttentionWindows::all},
    {.model_type = "qwen2",
     .class_name = "Qwen2ForCausalLM",
     .n_kv_heads = 32,
     .max_position = 32768,
     .window = 4096,
     .biases = Biases::qkv,
     .windows = AttentionWindows::by_layer},
    {.model_type = "qwen3",
     .class_name = "Qwen3ForCausalLM",
     .n_kv_heads = 32,
     .head_dim = 128,
     .max_position = 32768,
     .window = 4096,
     .biases = Biases::by_key,
     .qk_norm = true,
     .windows = AttentionWindows::by_layer},
    {.model_type = "mixtral",
     .class_name = "MixtralForCausalLM",
     .n_kv_heads = 8,
     .max_position = 131072,
     .bos_id = 1,
     .norm_eps = 1e-5,
     .theta = 1e6,
     .windows = AttentionWindows::all,
     .mixture = Mixture::mixtral},
    {.model_type = "qwen2_moe",
     .class_name = "Qwen2MoeForCausalLM",
     .n_kv_heads = 16,
     .max_position = 32768,
     .biases = Biases::qkv_by_key,
     .windows = AttentionWindows::off,
     .mixture = Mixture::qwen,
     .shared_expert = true},
    {.model_type = "qwen3_moe",
     .class_name = "Qwen3MoeForCausalLM",
     .n_kv_heads = 4,
     .max_position = 32768,
     .biases = Biases::by_key,
     .qk_norm = true,
     .windows = AttentionWindows::off,
     .mixture = Mixture::qwen},
    {.model_type = "gemma",
     .class_name = "GemmaForCausalLM",
     .n_kv_heads = 16,
     .head_dim = 256,
     .max_position = 8192,
     .bos_id = 2,
     .biases = Biases::by_key,
     .gemma = true},
    {.model_type = "gemma2",
     .class_name = "Gemma2ForCausalLM",
     .n_kv_heads = 4,
     .head_dim = 256,
     .max_position = 8192,
     .window = 4096,
     .bos_id = 2,
     .biases = Biases::by_key,
     .windows = AttentionWindows::alternating,
     .gemma = true,
     .post_norms = true},
    {.model_type = "phi3",
     .class_name = "Phi3ForCausalLM",
     .max_position = 4096,
     .bos_id = 1,
     .norm_eps = 1e-5,
     .windows = AttentionWindows::all,
     .fused_projections = true},
}};

// No model comes near these; they keep every product of two of them far from overflow.
constexpr std::int64_t kMaxLayers = 100'000;
constexpr std::int64_t kMaxWidth = 10'000'000;
constexpr std::int64_t kMaxHeads = 100'000;
constexpr std::int64_t kMaxPosition = std::int64_t{1} << 40;
constexpr std::int64_t kMaxExperts = 65'536, kMaxExpertsInAll = 200'000;

std::string supported_list() {
  std::string list;
  for (const Family& family : kFamilies) list += (list.empty() ? "" : ", ") + std::string(family.model_type);
  return list;
}

/// The family by "model_type" or, where that is missing, by the class in "architectures".
const Family& find_family(const Keys& keys) {
  const std::string type = keys.string("model_type");
  for (const Family& family : kFamilies)
    if (family.model_type == type) return family;
  if (!type.empty())
    throw FormatError(keys.file(), fmt::format("key \"model_type\": architecture {} is unknown; supported: {}",
                                               core::quote_text(type), supported_list()));
  const Json* classes = keys.find("architectures");
  if (classes != nullptr && classes->is_array() && classes->size() == 1)
    for (const Family& family : kFamilies)
      if (classes->front() == family.class_name) return family;
  throw FormatError(keys.file(),
                    "key \"model_type\" is missing; it names the architecture, one of: " + supported_list());
}

void parse_yarn(const Keys& keys, std::int64_t max_position, RopeConfig& rope) {
  rope.scaling = RopeScaling::yarn;
  rope.original_max_position =
      static_cast<double>(keys.integer_or("original_max_position_embeddings", 1, kMaxPosition, max_position));
  keys.know({"attention_factor", "mscale", "mscale_all_dim", "finetuned"});
  rope.beta_fast = keys.number_or("beta_fast", 0, 32);
  rope.beta_slow = keys.number_or("beta_slow", 0, 1);
  if (rope.beta_fast < rope.beta_slow) keys.refuse("beta_fast", "is below beta_slow");
  if (!keys.boolean_or("truncate", true)) keys.refuse("truncate", "is false, which is not supported");
  if (keys.find("attention_factor") != nullptr) {
    rope.attention_factor = keys.number("attention_factor", 0);
  } else if (keys.find("mscale") != nullptr && keys.find("mscale_all_dim") != nullptr) {
    const double log_factor = rope.factor > 1 ? std::log(rope.factor) : 0.0;
    const double numerator = keys.number("mscale", 0, true), denominator = keys.number("mscale_all_dim", 0, true);
    // A zero counts as not given, as in the reference.
    if (numerator > 0 && denominator > 0)
      rope.attention_factor = (0.1 * numerator * log_factor + 1) / (0.1 * denominator * log_factor + 1);
  }
}

/// A key that nobody knows may ask for another model than the one that is computed.
void warn_of_unknown(const std::string& file, const std::string& model_type, const std::vector<std::string>& keys) {
  if (keys.empty()) return;
  constexpr std::size_t kShown = 12;
  std::string names;
  for (std::size_t i = 0; i < std::min(keys.size(), kShown); ++i)
    names += (i > 0 ? ", " : "") + core::quote_text(keys[i]);
  if (keys.size() > kShown) names += fmt::format(" and {} more", keys.size() - kShown);
  core::warn_once(fmt::format("{}: keys that are not known for {} have no effect: {}", file, model_type, names));
}

/// The fields of a scaling of some type.
void parse_scaling(const Keys& inner, std::string_view type_key, const std::string& type, std::int64_t max_position,
                   RopeConfig& rope) {
  if (type != "linear" && type != "llama3" && type != "yarn")
    inner.refuse(type_key, "is " + core::quote_text(type) + "; one of default, linear, llama3, yarn is wanted");
  rope.factor = inner.number("factor", 0);
  if (type == "linear") {
    rope.scaling = RopeScaling::linear;
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::llama3;
    rope.low_freq_factor = inner.number("low_freq_factor", 0);
    rope.high_freq_factor = inner.number("high_freq_factor", 0);
    if (rope.high_freq_factor <= rope.low_freq_factor) inner.refuse("high_freq_factor", "is not above low_freq_factor");
    rope.original_max_position =
        static_cast<double>(inner.integer("original_max_position_embeddings", 1, kMaxPosition));
  } else {
    parse_yarn(inner, max_position, rope);
  }
}

void refuse_partial_rotary(const Keys& keys) {
  if (keys.number_or("partial_rotary_factor", 0, 1) != 1)
    keys.refuse("partial_rotary_factor", "is not 1: rotary embeddings on a part of the head are not supported");
}

RopeConfig parse_rope(const Keys& keys, const Family& family, std::int64_t max_position) {
  RopeConfig rope;
  // "rope_parameters" is the newer spelling, with theta inside.
  const bool newer = keys.find("rope_parameters") != nullptr;
  const std::string name = newer ? "rope_parameters" : "rope_scaling";
  const Json* scaling = keys.object(name);
  rope.theta = keys.number_or("rope_theta", 0, family.theta);
  refuse_partial_rotary(keys);
  if (scaling == nullptr || scaling->empty()) return rope;
  const Keys inner(*scaling, keys.file(), name + ".");
  for (const auto& item : scaling->items())
    if (item.value().is_object()) inner.refuse(item.key(), "is an object: rope by type of layer is not supported");
  rope.theta = inner.number_or("rope_theta", 0, rope.theta);
  refuse_partial_rotary(inner);
  inner.know({"type"});
  const std::string_view type_key = inner.find("rope_type") != nullptr ? "rope_type" : "type";
  const std::string type = inner.string(type_key);
  if (type.empty() && !newer) inner.refuse("rope_type", "is missing; one of default, linear, llama3, yarn is wanted");
  if (!type.empty() && type != "default") parse_scaling(inner, type_key, type, max_position, rope);
  warn_of_unknown(keys.file(), std::string(family.model_type), inner.unknown());
  return rope;
}

std::vector<std::int64_t> parse_windows(const Keys& keys, const Family& family, std::int64_t n_layers) {
  std::vector<std::int64_t> window(static_cast<std::size_t>(n_layers), 0);
  if (family.windows == AttentionWindows::none) return window;
  if (family.windows == AttentionWindows::off) {
    if (keys.boolean_or("use_sliding_window", false))
      keys.refuse(
          "use_sliding_window",
          "is true; which layers of a mixture have a window is not settled between versions of transformers, and "
          "it is not supported");
    keys.know({"sliding_window", "max_window_layers"});
    return window;
  }
  // An absent key means the class default, null means no window.
  std::int64_t width = keys.is_absent("sliding_window") ? family.window : 0;
  width = keys.integer_or("sliding_window", 1, kMaxPosition, width);
  if (family.windows == AttentionWindows::all) {
    window.assign(window.size(), width);
    return window;
  }
  const bool alternating = family.windows == AttentionWindows::alternating;
  if (!alternating && !keys.boolean_or("use_sliding_window", false)) width = 0;
  const std::int64_t first = keys.integer_or("max_window_layers", 0, kMaxPosition, 28);
  const Json* types = keys.find("layer_types");
  if (types != nullptr && (!types->is_array() || types->size() != window.size()))
    keys.refuse("layer_types", fmt::format("is not a list of {} entries, one a layer", n_layers));
  for (std::size_t layer = 0; layer < window.size(); ++layer) {
    bool windowed = width > 0 && (alternating ? layer % 2 == 0 : std::cmp_greater_equal(layer, first));
    if (types != nullptr) {
      const Json& type = (*types)[layer];
      windowed = type == "sliding_attention";
      if (!windowed && type != "full_attention")
        keys.refuse("layer_types", fmt::format("entry {} is {}; \"full_attention\" or \"sliding_attention\" is wanted",
                                               layer, found_text(type)));
      if (windowed && width == 0)
        keys.refuse("layer_types", fmt::format("entry {} asks for a window, but {}\"sliding_window\" gives none", layer,
                                               alternating ? "" : "\"use_sliding_window\" with "));
    }
    window[layer] = windowed ? width : 0;
  }
  return window;
}

/// Which layers are mixtures: all, or as "mlp_only_layers" and "decoder_sparse_step" say.
std::vector<bool> parse_mixture_layers(const Keys& keys, std::int64_t n_layers) {
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

MixtureConfig parse_mixture(const Keys& keys, const Family& family, const ModelConfig& config) {
  MixtureConfig mixture;
  if (family.mixture == Mixture::none) return mixture;
  const bool qwen = family.mixture == Mixture::qwen;
  const std::string_view count = qwen ? "num_experts" : "num_local_experts";
  mixture.n_experts = keys.integer(count, 1, kMaxExperts);
  if (mixture.n_experts * config.n_layers > kMaxExpertsInAll)
    keys.refuse(count, fmt::format("is {}: {} layers of so many are more than {} experts", mixture.n_experts,
                                   config.n_layers, kMaxExpertsInAll));
  mixture.top_k = keys.integer("num_experts_per_tok", 1, mixture.n_experts);
  mixture.expert_size = qwen ? keys.integer("moe_intermediate_size", 1, kMaxWidth) : config.intermediate_size;
  if (family.shared_expert) mixture.shared_size = keys.integer("shared_expert_intermediate_size", 1, kMaxWidth);
  mixture.renormalise = qwen ? keys.boolean_or("norm_topk_prob", false) : true;
  if (qwen)
    mixture.layers = parse_mixture_layers(keys, config.n_layers);
  else
    mixture.layers.assign(static_cast<std::size_t>(config.n_layers), true);
  mixture.module = qwen ? "mlp" : "block_sparse_moe";
  mixture.gate = qwen ? "gate_proj" : "w1";
  mixture.up = qwen ? "up_proj" : "w3";
  mixture.down = qwen ? "down_proj" : "w2";
  return mixture;
}

void parse_heads(const Keys& keys, const Family& family, ModelConfig& config) {
  config.n_heads = keys.integer("num_attention_heads", 1, kMaxHeads);
  // Null means one key head for each query head in every class.
  const bool kv_default = keys.is_absent("num_key_value_heads") && family.n_kv_heads > 0;
  config.n_kv_heads =
      keys.integer_or("num_key_value_heads", 1, kMaxHeads, kv_default ? family.n_kv_heads : config.n_heads);
  if (config.n_heads % config.n_kv_heads != 0)
    keys.refuse("num_key_value_heads", fmt::format("is {}, which does not divide num_attention_heads = {}",
                                                   config.n_kv_heads, config.n_heads));
  const bool dim_default = keys.is_absent("head_dim") && family.head_dim > 0;
  if (keys.find("head_dim") == nullptr && !dim_default && config.hidden_size % config.n_heads != 0)
    keys.refuse("hidden_size",
                fmt::format("is {}, no multiple of num_attention_heads = {}, and \"head_dim\" is not given",
                            config.hidden_size, config.n_heads));
  config.head_dim =
      keys.integer_or("head_dim", 1, kMaxWidth, dim_default ? family.head_dim : config.hidden_size / config.n_heads);
  if (config.head_dim % 2 != 0)
    keys.refuse("head_dim", fmt::format("is {}; rotary embeddings need an even size", config.head_dim));
  if (config.n_heads * config.head_dim > kMaxWidth)
    keys.refuse("head_dim",
                fmt::format("is {}: {} heads of it are wider than {}", config.head_dim, config.n_heads, kMaxWidth));
}

void parse_activation(const Keys& keys, const Family& family, ModelConfig& config) {
  // Gemma's "hidden_activation" stands over the older "hidden_act".
  const bool newer = family.gemma && keys.find("hidden_activation") != nullptr;
  keys.know({"hidden_act"});
  const std::string_view key = newer ? "hidden_activation" : "hidden_act";
  std::string activation = keys.string(key);
  config.activation = family.gemma ? Activation::gelu_tanh : Activation::silu;
  if (family.gemma && !family.post_norms && !newer && activation == "gelu") {
    // The official releases of Gemma 1 say so, and mean the tanh form.
    core::log_info("{}: \"hidden_act\" is \"gelu\", taken as \"gelu_pytorch_tanh\" as transformers does", keys.file());
    activation = "gelu_pytorch_tanh";
  }
  const bool right = family.gemma ? activation == "gelu_pytorch_tanh" : activation == "silu" || activation == "swish";
  if (!activation.empty() && !right)
    keys.refuse(key, fmt::format("is {}; \"{}\" is wanted", core::quote_text(activation),
                                 family.gemma ? "gelu_pytorch_tanh" : "silu"));
}

void parse_gemma(const Keys& keys, const Family& family, ModelConfig& config) {
  if (!family.gemma) return;
  config.norm_plus_one = true;
  config.embedding_scale = std::sqrt(static_cast<double>(config.hidden_size));
  config.post_norms = family.post_norms;
  if (!family.post_norms) return;
  config.query_pre_attn_scalar = keys.number_or("query_pre_attn_scalar", 0, 256);
  // An absent key means the class default, null means no cap.
  const auto cap = [&](std::string_view key, double fallback) {
    return keys.number_or(key, 0, keys.is_absent(key) ? fallback : 0.0);
  };
  config.attention_softcap = cap("attn_logit_softcapping", 50);
  config.logit_softcap = cap("final_logit_softcapping", 30);
}

/// Keys of training, of other programs and of generation, of all families.
void know_what_changes_nothing(const Keys& keys) {
  keys.know({"architectures",
             "auto_map",
             "_name_or_path",
             "name_or_path",
             "transformers_version",
             "torch_dtype",
             "dtype",
             "use_cache",
             "initializer_range",
             "pretraining_tp",
             "attention_dropout",
             "hidden_dropout",
             "resid_pdrop",
             "embd_pdrop",
             "pad_token_id",
             "unk_token_id",
             "sep_token_id",
             "output_router_logits",
             "router_aux_loss_coef",
             "router_jitter_noise",
             "tokenizer_class",
             "id2label",
             "label2id",
             "num_labels",
             "problem_type",
             "return_dict",
             "output_attentions",
             "output_hidden_states",
             "cache_implementation",
             "model_max_length",
             "max_length",
             "attn_implementation",
             "_attn_implementation",
             "_attn_implementation_autoset",
             "use_flash_attn",
             "original_max_position_embeddings",
             "is_llama_config",
             "is_decoder",
             "quantization_config",
             "generation_config",
             "do_sample",
             "temperature",
             "top_p",
             "top_k",
             "unsloth_version",
             "unsloth_fixed",
             "transformers.js_config",
             "license",
             "model_name",
             "is_encoder_decoder",
             "task_specific_params",
             "prefix",
             "begin_suppress_tokens",
             "suppress_tokens",
             "chunk_size_feed_forward",
             "repetition_penalty",
             "length_penalty",
             "early_stopping",
             "num_beams",
             "num_beam_groups",
             "num_return_sequences",
             "diversity_penalty",
             "encoder_no_repeat_ngram_size",
             "no_repeat_ngram_size",
             "min_length",
             "typical_p",
             "tf_legacy_loss",
             "use_bfloat16",
             "torchscript",
             "finetuning_task"});
  // What every family does without being told.
  const Json* types = keys.peek("layer_types");
  if (types != nullptr && types->is_array() &&
      std::all_of(types->begin(), types->end(), [](const Json& type) { return type == "full_attention"; }))
    keys.know({"layer_types"});
}

void require_sizes(const Keys& keys) {
  std::string missing;
  for (const std::string_view key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"})
    if (keys.is_absent(key)) missing += (missing.empty() ? "\"" : ", \"") + std::string(key) + "\"";
  if (!missing.empty()) throw FormatError(keys.file(), "missing keys: " + missing + " (sizes are never guessed)");
}

}  // namespace

ModelConfig parse_config(const Json& json, const std::string& file) {
  if (!json.is_object()) throw FormatError(file, "is " + found_text(json) + "; a JSON object is wanted");
  const Keys keys(json, file);
  const Family& family = find_family(keys);
  require_sizes(keys);
  // Of "quantization_config" the tensors tell whether it still holds (model/weights.cpp).
  ModelConfig config;
  config.model_type = family.model_type;
  config.hidden_size = keys.integer("hidden_size", 1, kMaxWidth);
  config.intermediate_size = keys.integer("intermediate_size", 1, kMaxWidth);
  config.n_layers = keys.integer("num_hidden_layers", 1, kMaxLayers);
  config.vocab_size = keys.integer("vocab_size", 1, kMaxWidth);
  config.max_position = keys.integer_or("max_position_embeddings", 1, kMaxPosition, family.max_position);
  config.norm_eps = keys.number_or("rms_norm_eps", 0, family.norm_eps, true);
  parse_heads(keys, family, config);
  config.rope = parse_rope(keys, family, config.max_position);

  parse_activation(keys, family, config);
  const bool attention_bias = family.biases == Biases::by_key && keys.boolean_or("attention_bias", false);
  config.qkv_bias = attention_bias || family.biases == Biases::qkv ||
                    (family.biases == Biases::qkv_by_key && keys.boolean_or("qkv_bias", true));
  config.o_bias = attention_bias;
  config.mlp_bias = family.mlp_bias_key && keys.boolean_or("mlp_bias", false);
  config.qk_norm = family.qk_norm;
  config.tied_embeddings = keys.boolean_or("tie_word_embeddings", family.gemma);
  config.fused_projections = family.fused_projections;
  config.mixture = parse_mixture(keys, family, config);
  parse_gemma(keys, family, config);
  config.window = parse_windows(keys, family, config.n_layers);
  const std::vector<std::int64_t> bos = keys.is_absent("bos_token_id") ? std::vector<std::int64_t>{family.bos_id}
                                                                       : keys.ids("bos_token_id", config.vocab_size);
  if (!bos.empty() && bos.front() >= 0 && bos.front() < config.vocab_size) config.bos_id = bos.front();
  config.end_ids = keys.ids("eos_token_id", config.vocab_size);
  const std::string dtype = keys.string(keys.find("dtype") != nullptr ? "dtype" : "torch_dtype");
  if (dtype == "bfloat16") config.stored_dtype = core::DType::bf16;
  know_what_changes_nothing(keys);
  warn_of_unknown(file, config.model_type, keys.unknown());
  return config;
}

void add_generation_ends(const std::string& folder, ModelConfig& config) {
  const std::filesystem::path path = std::filesystem::path(folder) / "generation_config.json";
  if (!std::filesystem::exists(path)) return;
  const std::string file = path.string();
  const Json json = core::read_json_file(file);
  if (!json.is_object()) throw FormatError(file, "is " + found_text(json) + "; a JSON object is wanted");
  for (const std::int64_t id : Keys(json, file).ids("eos_token_id", config.vocab_size))
    if (std::find(config.end_ids.begin(), config.end_ids.end(), id) == config.end_ids.end())
      config.end_ids.push_back(id);
}

std::string_view class_name(std::string_view model_type) {
  for (const Family& family : kFamilies)
    if (family.model_type == model_type) return family.class_name;
  VORONOI_REQUIRE(false, "no class for " + std::string(model_type));
}

}  // namespace voronoi::model
