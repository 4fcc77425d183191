#include "model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "model/config_family.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::Json;

std::string supported_list() {
  std::string list;
  for (const Family& family : families()) list += (list.empty() ? "" : ", ") + std::string(family.model_type);
  for (const Wrapper& wrapper : wrappers()) list += ", " + std::string(wrapper.model_type);
  return list;
}

const Family* family_of(std::string_view type) {
  for (const Family& family : families())
    if (family.model_type == type) return &family;
  return nullptr;
}

/// The wrapper by "model_type"; nullptr: the file is of a language model alone.
const Wrapper* find_wrapper(const Keys& keys) {
  const std::string type = keys.string("model_type");
  for (const Wrapper& wrapper : wrappers())
    if (wrapper.model_type == type) return &wrapper;
  return nullptr;
}

/// The family by "model_type" or, where that is missing, by the class in "architectures", or that of the wrapper.
const Family& find_family(const Keys& keys, const Wrapper* wrapper) {
  const std::string type = keys.string("model_type");
  if (wrapper != nullptr) {
    if (!type.empty() && type != wrapper->text_type)
      keys.refuse("model_type", fmt::format("is {}; within {} {} is wanted", core::quote_text(type),
                                            wrapper->model_type, wrapper->text_type));
    const Family* family = family_of(wrapper->text_type);
    VORONOI_REQUIRE(family != nullptr, "a wrapper of a family");
    return *family;
  }
  if (const Family* family = family_of(type)) return *family;
  if (!type.empty())
    throw FormatError(keys.file(), fmt::format("key \"model_type\": architecture {} is unknown; supported: {}",
                                               core::quote_text(type), supported_list()));
  const Json* classes = keys.find("architectures");
  if (classes != nullptr && classes->is_array() && classes->size() == 1)
    for (const Family& family : families())
      if (classes->front() == family.class_name) return family;
  throw FormatError(keys.file(),
                    "key \"model_type\" is missing; it names the architecture, one of: " + supported_list());
}

void parse_heads(const Keys& keys, const Family& family, ModelConfig& config) {
  config.n_heads = family.n_heads > 0 ? keys.integer_or("num_attention_heads", 1, kMaxHeads, family.n_heads)
                                      : keys.integer("num_attention_heads", 1, kMaxHeads);
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

/// Latent attention: heads of keys are as many as those of queries; "head_dim" is the turned part's.
void parse_latent(const Keys& keys, ModelConfig& config) {
  LatentConfig& latent = config.latent;
  config.n_heads = config.n_kv_heads = keys.integer("num_attention_heads", 1, kMaxHeads);
  latent.kv_rank = keys.integer("kv_lora_rank", 1, kMaxWidth);
  latent.q_rank = keys.is_absent("q_lora_rank") ? keys.integer("q_lora_rank", 1, kMaxWidth)
                                                : keys.integer_or("q_lora_rank", 1, kMaxWidth, 0);
  latent.nope = keys.integer("qk_nope_head_dim", 1, kMaxWidth);
  latent.rope = keys.integer("qk_rope_head_dim", 2, kMaxWidth);
  latent.value = keys.integer("v_head_dim", 1, kMaxWidth);
  keys.know({"head_dim", "qk_head_dim", "num_key_value_heads"});
  config.head_dim = latent.nope + latent.rope;
  if (latent.rope % 2 != 0) keys.refuse("qk_rope_head_dim", "is odd; rotary embeddings need an even size");
  if (latent.value > config.head_dim)
    keys.refuse("v_head_dim",
                fmt::format("is {}: heads of values are wider than the {} of keys, which is not supported",
                            latent.value, config.head_dim));
  if (config.n_heads * (config.head_dim + latent.value) > kMaxWidth)
    keys.refuse("num_attention_heads",
                fmt::format("is {}: so many heads are wider than {}", config.n_heads, kMaxWidth));
}

void parse_activation(const Keys& keys, const Family& family, ModelConfig& config) {
  // Gemma's "hidden_activation" stands over the older "hidden_act".
  const bool newer = family.gemma && keys.find("hidden_activation") != nullptr;
  keys.know({"hidden_act"});
  const std::string_view key = newer ? "hidden_activation" : "hidden_act";
  std::string activation = keys.string(key);
  config.activation = family.gemma ? Activation::gelu_tanh : Activation::silu;
  if (family.gemma && !family.soft_caps && !newer && activation == "gelu") {
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
  config.embedding_scale = std::sqrt(static_cast<double>(config.hidden_size));
  if (family.query_scalar) config.attention_scale = 1 / std::sqrt(keys.number_or("query_pre_attn_scalar", 0, 256));
  if (keys.boolean_or("use_bidirectional_attention", false))
    keys.refuse("use_bidirectional_attention", "is true; attention looks back alone here");
  if (!family.soft_caps) return;
  // An absent key means the class default, null means no cap.
  const auto cap = [&](std::string_view key, double fallback) {
    if (!keys.is_absent(key)) fallback = 0;
    return keys.find(key) == nullptr ? fallback : keys.number(key, 0);
  };
  config.attention_softcap = cap("attn_logit_softcapping", family.soft_cap);
  config.logit_softcap = cap("final_logit_softcapping", family.logit_cap);
}

/// Granite's multipliers, Cohere's scale of the logits.
void parse_scales(const Keys& keys, const Family& family, ModelConfig& config) {
  config.attention_scale = 1 / std::sqrt(static_cast<double>(config.head_dim));
  if (family.norms == NormPlaces::parallel) config.logit_scale = keys.number_or("logit_scale", 0, 0.0625);
  if (!family.multipliers) return;
  config.embedding_scale = keys.number_or("embedding_multiplier", 0, 1);
  config.attention_scale = keys.number_or("attention_multiplier", 0, 1);
  config.residual_scale = keys.number_or("residual_multiplier", 0, 1);
  config.logit_scale = 1 / keys.number_or("logits_scaling", 0, 1);
}

void parse_norms(const Keys& keys, const Family& family, ModelConfig& config) {
  const bool layer_norm = family.norms == NormPlaces::parallel;
  config.norm_eps = keys.number_or(layer_norm ? "layer_norm_eps" : "rms_norm_eps", 0, family.norm_eps, true);
  config.qk_norm = family.qk_norm || (family.qk_norm_key && keys.boolean_or("use_qk_norm", false));
  config.norm_plus_one = family.gemma || family.norm_plus_one;
  NormNames& names = config.norms;
  switch (family.norms) {
    case NormPlaces::before:
      break;
    case NormPlaces::around:
      names = {"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
               "post_feedforward_layernorm"};
      break;
    case NormPlaces::after:
      names = {"", "post_attention_layernorm", "", "post_feedforward_layernorm"};
      config.qk_norm_whole = true;
      break;
    case NormPlaces::glm:
      names = {"input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"};
      break;
    case NormPlaces::parallel:
      names = {"input_layernorm", "", "", ""};
      config.parallel_block = true;
      config.norm_kind = NormKind::layer;
      if (keys.boolean_or("use_qk_norm", false)) keys.refuse("use_qk_norm", "is true, which is not supported");
      break;
  }
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

void require_sizes(const Keys& keys, const Family& family) {
  std::string missing;
  for (const std::string_view key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    if ((key == "num_attention_heads" && family.n_heads > 0) || (key == "vocab_size" && family.vocab_size > 0))
      continue;
    if (keys.is_absent(key)) missing += (missing.empty() ? "\"" : ", \"") + std::string(key) + "\"";
  }
  if (!missing.empty()) throw FormatError(keys.file(), "missing keys: " + missing + " (sizes are never guessed)");
}

/// outer: of the wrapper, where it is one; else keys itself.
ModelConfig parse_text(const Keys& keys, const Keys& outer, const Wrapper* wrapper) {
  const Family& family = find_family(keys, wrapper);
  require_sizes(keys, family);
  // What a wrapper says for its language model stands in either place.
  const auto place = [&](std::string_view key) -> const Keys& { return keys.is_absent(key) ? outer : keys; };
  // Of "quantization_config" the tensors tell whether it still holds (model/weights.cpp).
  ModelConfig config;
  config.model_type = family.model_type;
  if (wrapper != nullptr) config.wrapper = wrapper->model_type;
  config.hidden_size = keys.integer("hidden_size", 1, kMaxWidth);
  config.intermediate_size = keys.integer("intermediate_size", 1, kMaxWidth);
  config.n_layers = keys.integer("num_hidden_layers", 1, kMaxLayers);
  config.vocab_size = family.vocab_size > 0 ? keys.integer_or("vocab_size", 1, kMaxWidth, family.vocab_size)
                                            : keys.integer("vocab_size", 1, kMaxWidth);
  config.max_position = keys.integer_or("max_position_embeddings", 1, kMaxPosition, family.max_position);
  parse_norms(keys, family, config);
  family.latent ? parse_latent(keys, config) : parse_heads(keys, family, config);
  parse_scales(keys, family, config);
  parse_rope(keys, family, config);
  parse_activation(keys, family, config);
  const bool by_key = family.biases == Biases::by_key || family.biases == Biases::qkv_by_attention;
  const bool attention_bias = by_key && keys.boolean_or("attention_bias", family.attention_bias);
  config.qkv_bias = attention_bias || family.biases == Biases::qkv ||
                    (family.biases == Biases::qkv_by_key && keys.boolean_or("qkv_bias", true));
  config.o_bias = attention_bias && family.biases == Biases::by_key;
  config.mlp_bias = family.mlp_bias_key && keys.boolean_or("mlp_bias", false);
  config.tied_embeddings = place("tie_word_embeddings").boolean_or("tie_word_embeddings", family.tied);
  config.fused_qkv = family.fused_qkv;
  config.fused_gate_up = family.fused_gate_up;
  config.attention_gate = family.attention_gate;
  parse_mixture(keys, family, config);
  parse_gemma(keys, family, config);
  parse_layers(keys, family, config);
  const Keys& bos_place = place("bos_token_id");
  const std::vector<std::int64_t> bos = bos_place.is_absent("bos_token_id")
                                            ? std::vector<std::int64_t>{family.bos_id}
                                            : bos_place.ids("bos_token_id", config.vocab_size);
  if (!bos.empty() && bos.front() >= 0 && bos.front() < config.vocab_size) config.bos_id = bos.front();
  config.end_ids = place("eos_token_id").ids("eos_token_id", config.vocab_size);
  std::string dtype;
  for (const Keys* of : {&keys, &outer})
    for (const char* key : {"torch_dtype", "dtype"})
      if (of->find(key) != nullptr && (dtype.empty() || of == &keys)) dtype = of->string(key);
  if (dtype == "bfloat16") config.stored_dtype = core::DType::bf16;
  know_what_changes_nothing(keys);
  warn_of_unknown(keys.file(), config.model_type, keys.unknown());
  return config;
}

}  // namespace

void warn_of_unknown(const std::string& file, const std::string& model_type, const std::vector<std::string>& keys) {
  if (keys.empty()) return;
  constexpr std::size_t kShown = 12;
  std::string names;
  for (std::size_t i = 0; i < std::min(keys.size(), kShown); ++i)
    names += (i > 0 ? ", " : "") + core::quote_text(keys[i]);
  if (keys.size() > kShown) names += fmt::format(" and {} more", keys.size() - kShown);
  core::warn_once(fmt::format("{}: keys that are not known for {} have no effect: {}", file, model_type, names));
}

ModelConfig parse_config(const Json& json, const std::string& file) {
  if (!json.is_object()) throw FormatError(file, "is " + found_text(json) + "; a JSON object is wanted");
  const Keys keys(json, file);
  const Wrapper* wrapper = find_wrapper(keys);
  if (wrapper == nullptr) return parse_text(keys, keys, nullptr);
  const Json* text = keys.object("text_config");
  if (text == nullptr) keys.refuse("text_config", "is missing; it describes the language model of a wrapper");
  return parse_text(Keys(*text, file, "text_config."), keys, wrapper);
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
  for (const Family& family : families())
    if (family.model_type == model_type) return family.class_name;
  VORONOI_REQUIRE(false, "no class for " + std::string(model_type));
}

}  // namespace voronoi::model
