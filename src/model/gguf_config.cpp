// The metadata of a GGUF file in the terms of config.json, so that one parser checks both.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numbers>
#include <optional>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "model/config_family.h"
#include "model/gguf_families.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::Json;

/// Look-ups behind the architecture's name.
class Metadata {
 public:
  Metadata(const GgufFile& gguf, const GgufFamily& of) : file(gguf), family(of) {}

  std::string key(std::string_view name) const { return std::string(family.arch) + "." + std::string(name); }
  const GgufValue* find(std::string_view name) const { return file.find(key(name)); }
  const GgufValue& at(std::string_view name) const { return file.at(key(name)); }
  std::optional<std::int64_t> integer(std::string_view name) const {
    const GgufValue* value = find(name);
    return value == nullptr ? std::nullopt : std::optional(value->as_i64());
  }
  std::optional<double> decimal(std::string_view name) const {
    const GgufValue* value = find(name);
    return value == nullptr ? std::nullopt : std::optional(as_decimal(value->as_f64()));
  }
  bool has_tensor(std::string_view name) const { return file.find_tensor(name) != nullptr; }
  [[noreturn]] void refuse(std::string_view name, const std::string& message) const {
    throw FormatError(file.path(), "key \"" + key(name) + "\": " + message);
  }

  const GgufFile& file;
  const GgufFamily& family;
};

/// Blocks that are there, of at most so many that are claimed: a list of one entry a layer is no longer than the
/// file's.
std::int64_t listed_layers(const Metadata& metadata, const Json& config) {
  const std::int64_t n_layers = config.at("num_hidden_layers").get<std::int64_t>();
  const auto n_tensors = static_cast<std::int64_t>(metadata.file.tensors().size());
  if (n_layers > n_tensors)
    metadata.refuse("block_count", fmt::format("is {}, more than the {} tensors of the file", n_layers, n_tensors));
  return n_layers;
}

void add_keys(const Metadata& metadata, std::span<const GgufKey> keys, Json& config) {
  for (const GgufKey& key : keys) {
    if (key.kind == GgufKey::Kind::known) continue;
    const GgufValue* value = key.required ? &metadata.at(key.gguf) : metadata.find(key.gguf);
    if (value == nullptr) continue;
    const std::string ours(key.ours);
    switch (key.kind) {
      case GgufKey::Kind::integer:
        config[ours] = value->as_i64();
        break;
      case GgufKey::Kind::decimal:
        config[ours] = as_decimal(value->as_f64());
        break;
      default:
        config[ours] = value->as_bool();
    }
  }
}

/// Sizes of heads, and how much of one is turned.
void add_heads(const Metadata& metadata, Json& config) {
  const std::optional<std::int64_t> turned = metadata.integer("rope.dimension_count");
  if (metadata.family.latent) {
    // Files of before March 2025 have the heads' own sizes under the keys that newer ones use for the vectors of low
    // rank.
    const bool newer = metadata.find("attention.key_length_mla") != nullptr;
    const std::int64_t head = metadata.at(newer ? "attention.key_length_mla" : "attention.key_length").as_i64();
    config["v_head_dim"] = metadata.at(newer ? "attention.value_length_mla" : "attention.value_length").as_i64();
    const std::int64_t rope = metadata.at("rope.dimension_count").as_i64();
    if (rope >= head || rope < 1)
      metadata.refuse("rope.dimension_count", fmt::format("is {} of heads of {}", rope, head));
    config["qk_rope_head_dim"] = rope;
    config["qk_nope_head_dim"] = head - rope;
    return;
  }
  config["num_key_value_heads"] = config["num_attention_heads"];
  if (const auto n = metadata.integer("attention.head_count_kv")) config["num_key_value_heads"] = *n;
  // A null head size asks for hidden / heads, also where the class has a default of its own.
  config["head_dim"] = nullptr;
  const std::int64_t hidden = config["hidden_size"].get<std::int64_t>(),
                     heads = config["num_attention_heads"].get<std::int64_t>();
  std::int64_t head = heads > 0 ? hidden / heads : 0;
  if (const auto size = metadata.integer("attention.key_length")) config["head_dim"] = head = *size;
  if (!metadata.family.partial_rotary) return;
  double share = 1;
  if (turned && *turned < head && head > 0) {
    if (*turned < 2) metadata.refuse("rope.dimension_count", fmt::format("is {}; at least 2 is wanted", *turned));
    share = static_cast<double>(*turned) / static_cast<double>(head);
    // The class multiplies and cuts: where the product falls just short, half a value more gives the same part.
    if (static_cast<std::int64_t>(share * static_cast<double>(head)) != *turned)
      share = (static_cast<double>(*turned) + 0.5) / static_cast<double>(head);
  }
  config["partial_rotary_factor"] = share;
}

/// One entry a layer: an array of flags, or of each so many the last sees all.
void add_windows(const Metadata& metadata, Json& config) {
  constexpr std::string_view kWindow = "attention.sliding_window", kPattern = "attention.sliding_window_pattern";
  const std::optional<std::int64_t> window = metadata.integer(kWindow);
  if (metadata.family.model_type == "phi3") {
    // 0 stands for none.
    config["sliding_window"] = window && *window != 0 ? Json(*window) : Json(nullptr);
    return;
  }
  if (metadata.family.window_period == 0) {
    if (window && *window != 0) metadata.refuse(kWindow, "is not 0: windows are not read for this architecture");
    return;
  }
  if (!window && metadata.family.window_needed) metadata.at(kWindow);
  const std::int64_t n_layers = listed_layers(metadata, config);
  std::int64_t period = metadata.family.window_period;
  const GgufValue* pattern = metadata.find(kPattern);
  const bool listed = pattern != nullptr && pattern->is_array();
  if (pattern != nullptr && !listed) period = pattern->as_i64();
  if (listed && std::cmp_less(pattern->as_ints().size(), n_layers))
    metadata.refuse(kPattern, fmt::format("has {} entries for {} layers", pattern->as_ints().size(), n_layers));
  if (period < 1) metadata.refuse(kPattern, fmt::format("is {}; at least 1 is wanted", period));
  // Without a width Gemma 2 has its own, the others see all.
  const bool windowed = (window && *window != 0) || metadata.family.model_type == "gemma2";
  Json types = Json::array();
  for (std::int64_t layer = 0; layer < n_layers; ++layer) {
    const bool sees_part =
        listed ? pattern->as_ints()[static_cast<std::size_t>(layer)] != 0 : layer % period < period - 1;
    types.push_back(windowed && sees_part ? "sliding_attention" : "full_attention");
  }
  config["layer_types"] = std::move(types);
}

void check_experts(const Metadata& metadata, Json& config) {
  // llama.cpp counts from 1: softmax, sigmoid.
  constexpr std::int64_t kSigmoid = 2;
  const GgufFamily& family = metadata.family;
  if (family.latent || family.model_type == "glm4_moe") {
    const std::int64_t otherwise = family.latent ? 1 : kSigmoid;
    if (metadata.integer("expert_gating_func").value_or(otherwise) != kSigmoid)
      metadata.refuse("expert_gating_func",
                      "does not say sigmoid (2): the experts of DeepSeek-V2 and its kin are not supported");
    if (metadata.find("expert_group_count") == nullptr && config.at("n_routed_experts") == 256)
      core::warn_once(
          fmt::format("{}: has no key \"{}\", so that tokens choose among all experts as llama.cpp lets them; "
                      "DeepSeek-V3 was trained with 8 groups of which 4 stay: a newer file says so",
                      metadata.file.path(), metadata.key("expert_group_count")));
  }
  if (!family.dense_by_tensors) return;
  Json dense = Json::array();
  const std::int64_t n_layers = listed_layers(metadata, config);
  for (std::int64_t layer = 0; layer < n_layers; ++layer)
    if (!metadata.has_tensor(fmt::format("blk.{}.ffn_gate_inp.weight", layer))) dense.push_back(layer);
  config["mlp_only_layers"] = std::move(dense);
}

Json divisors_of(const Metadata& metadata, const std::string& name) {
  constexpr std::int64_t kMost = 65536;  // no head comes near it
  const GgufTensor* tensor = metadata.file.find_tensor(name);
  if (tensor == nullptr || tensor->type != GgmlType::f32 || tensor->shape.size() != 1 || tensor->shape[0] > kMost)
    throw FormatError(metadata.file.path(),
                      "tensor " + name + ": is missing or no list of F32; \"longrope\" asks for one divisor a pair");
  std::vector<float> values(static_cast<std::size_t>(tensor->shape[0]));
  dequantize(tensor->type, tensor->bytes, values);
  Json list = Json::array();
  for (const float value : values) list.push_back(as_decimal(static_cast<double>(value)));
  return list;
}

void add_longrope(const Metadata& metadata, Json& config) {
  Json scaling{{"type", "longrope"},
               {"long_factor", divisors_of(metadata, "rope_factors_long.weight")},
               {"short_factor", divisors_of(metadata, "rope_factors_short.weight")}};
  if (const auto factor = metadata.decimal("rope.scaling.attn_factor")) scaling["attention_factor"] = *factor;
  config["original_max_position_embeddings"] = metadata.at("rope.scaling.original_context_length").as_i64();
  config["rope_scaling"] = std::move(scaling);
}

/// What multiplies attention under yarn; each key refused that asks for what config.json cannot say.
void add_yarn_factors(const Metadata& metadata, Json& scaling) {
  constexpr std::string_view kLog = "rope.scaling.yarn_log_multiplier";
  const std::optional<double> log = metadata.decimal(kLog);
  if (metadata.family.latent) {
    // The converter writes a tenth of mscale_all_dim; that mscale be the same is llama.cpp's assumption.
    if (log && *log != 0)
      scaling["mscale"] = scaling["mscale_all_dim"] = as_decimal(static_cast<double>(static_cast<float>(10 * *log)));
    else
      scaling["attention_factor"] = 1.0;
  } else if (log && *log != 0) {
    metadata.refuse(kLog, "is not 0, which is not supported for this architecture");
  }
  for (const char* name : {"rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"})
    if (const auto factor = metadata.decimal(name); factor && *factor != 1 && *factor != -1)
      metadata.refuse(name, "a factor other than 1 is not supported");
}

/// As llama.cpp takes them: without a type the scaling is linear, files of 2023 have the factor under another key, and
/// without a factor, or with 0, nothing is scaled.
void add_rope_scaling(const Metadata& metadata, Json& config) {
  const GgufValue* stated = metadata.find("rope.scaling.type");
  const std::string type = stated != nullptr ? stated->as_string() : "linear";
  if (type == "longrope" || metadata.has_tensor("rope_factors_long.weight")) {
    if (metadata.family.model_type != "phi3")
      metadata.refuse("rope.scaling.type",
                      "is \"longrope\", which is read for phi3 alone; give the model's Hugging Face "
                      "directory");
    return add_longrope(metadata, config);
  }
  std::optional<double> factor = metadata.decimal("rope.scaling.factor");
  if (!factor) factor = metadata.decimal("rope.scale_linear");
  const bool scaled = factor && *factor != 0;
  config["rope_scaling"] = nullptr;
  if (type == "none" || (type == "linear" && !scaled)) return;
  Json scaling{{"rope_type", type}};
  if (scaled) scaling["factor"] = *factor;
  const auto number = [&](const char* key, const char* ours) {
    if (const auto value = metadata.decimal(key)) scaling[ours] = *value;
  };
  number("rope.scaling.yarn_beta_fast", "beta_fast");
  number("rope.scaling.yarn_beta_slow", "beta_slow");
  if (const auto length = metadata.integer("rope.scaling.original_context_length"))
    scaling["original_max_position_embeddings"] = *length;
  if (const auto attention = metadata.decimal("rope.scaling.attn_factor"); attention && *attention != 1)
    metadata.refuse("rope.scaling.attn_factor", "a factor other than 1 is not supported");
  if (type == "yarn") add_yarn_factors(metadata, scaling);
  if (type == "yarn" && metadata.family.model_type == "gpt_oss") scaling["truncate"] = false;  // the model's own rule
  config["rope_scaling"] = std::move(scaling);
}

void add_rope(const Metadata& metadata, Json& config) {
  const double theta = metadata.decimal("rope.freq_base").value_or(10000.0);
  config["rope_theta"] = theta;
  const auto local = metadata.decimal("rope.freq_base_swa");
  if (local && !config.contains("rope_local_base_freq") && *local != theta)
    metadata.refuse("rope.freq_base_swa", "is not rope.freq_base, which is not supported for this architecture");
  add_rope_scaling(metadata, config);
}

Json config_from_metadata(const GgufFile& file, const GgufFamily& family) {
  const Metadata metadata(file, family);
  Json config = Json::parse(family.stated);
  config["model_type"] = std::string(family.model_type);
  add_keys(metadata, common_gguf_keys(), config);
  // Layers for multi-token prediction are counted with the others.
  const std::int64_t extra = metadata.integer("nextn_predict_layers").value_or(0),
                     blocks = metadata.at("block_count").as_i64();
  if (extra != 0 && (extra < 0 || extra > blocks))
    metadata.refuse("nextn_predict_layers", fmt::format("is {} of {}", extra, blocks));
  config["num_hidden_layers"] = blocks - extra;
  add_keys(metadata, family.keys, config);
  add_heads(metadata, config);
  const bool layer_norm = family.norm_eps == "layer";
  config[layer_norm ? "layer_norm_eps" : "rms_norm_eps"] = as_decimal(
      metadata.at(layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon").as_f64());
  if (const auto scale = metadata.decimal("attention.temperature_scale"); scale && *scale != 0)
    metadata.refuse("attention.temperature_scale",
                    "is not 0, which is not supported; give the model's Hugging Face "
                    "directory");
  add_rope(metadata, config);
  add_windows(metadata, config);
  check_experts(metadata, config);
  if (family.wide_layers > 0) {
    const std::int64_t heads = config["num_attention_heads"].get<std::int64_t>();
    const std::int64_t wide = heads > 0 ? config["hidden_size"].get<std::int64_t>() / heads : 0;
    config["query_pre_attn_scalar"] =
        blocks == family.wide_layers || config["head_dim"].is_null() ? Json(wide) : config["head_dim"];
  }
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr) throw FormatError(file.path(), "tensor token_embd.weight is missing");
  config["vocab_size"] = embedding->shape.front();
  config["tie_word_embeddings"] = !metadata.has_tensor("output.weight");
  if (family.bias_key)
    config["attention_bias"] =
        metadata.has_tensor("blk.0.attn_q.bias") || metadata.has_tensor("blk.0.attn_output.bias");
  config["mlp_bias"] = metadata.has_tensor("blk.0.ffn_down.bias");
  if (family.model_type == "glm4_moe") config["use_qk_norm"] = metadata.has_tensor("blk.0.attn_q_norm.weight");
  config["bos_token_id"] = nullptr;
  if (const GgufValue* bos = file.find("tokenizer.ggml.bos_token_id")) config["bos_token_id"] = bos->as_i64();
  if (const GgufValue* end = file.find("tokenizer.ggml.eos_token_id")) config["eos_token_id"] = end->as_i64();
  return config;
}

/// What the metadata must agree with once the sizes are known.
void check_head_sizes(const Metadata& metadata, const ModelConfig& config) {
  if (metadata.family.latent) return;
  for (const auto& [name, wanted] :
       {std::pair{"rope.dimension_count", config.n_turned}, std::pair{"attention.value_length", config.head_dim}})
    if (const auto found = metadata.integer(name); found && *found != wanted)
      metadata.refuse(name,
                      fmt::format("is {}, but the heads have size {}; other sizes are not supported", *found, wanted));
}

/// Llama 3's rope scaling is stored as a tensor of frequency divisors; its parameters are found by trying those in use.
void add_rope_tensor(const GgufFile& file, double theta, std::int64_t head_dim, Json& config) {
  const GgufTensor* tensor = file.find_tensor("rope_freqs.weight");
  if (tensor == nullptr) return;
  const std::string place = "tensor rope_freqs.weight: ";
  if (tensor->type != GgmlType::f32 || tensor->shape != core::Shape{head_dim / 2})
    throw FormatError(file.path(), place + "is not F32 of half a head's size");
  std::vector<float> divisors(static_cast<std::size_t>(head_dim / 2));
  dequantize(tensor->type, tensor->bytes, divisors);
  constexpr double kLow = 1, kHigh = 4, kOriginal = 8192;
  const double factor = static_cast<double>(*std::max_element(divisors.begin(), divisors.end()));
  for (std::size_t i = 0; i < divisors.size(); ++i) {
    const double wavelength =
        2 * std::numbers::pi * std::pow(theta, 2 * static_cast<double>(i) / static_cast<double>(head_dim));
    const double smooth = std::clamp((kOriginal / wavelength - kLow) / (kHigh - kLow), 0.0, 1.0);
    const double wanted = 1 / ((1 - smooth) / factor + smooth);
    if (!(std::abs(static_cast<double>(divisors[i]) - wanted) <= 1e-3 * wanted))
      throw FormatError(
          file.path(),
          place +
              fmt::format(
                  "entry {} is {}; llama3 scaling by {} over {} positions has {}: this rope scaling is not supported",
                  i, divisors[i], factor, kOriginal, wanted));
  }
  if (factor != 1)
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", factor},
                              {"low_freq_factor", kLow},
                              {"high_freq_factor", kHigh},
                              {"original_max_position_embeddings", 8192}};
}

}  // namespace

double as_decimal(double value) {
  const auto narrow = static_cast<float>(value);
  return static_cast<double>(narrow) == value && std::isfinite(value)
             ? std::strtod(fmt::format("{}", narrow).c_str(), nullptr)
             : value;
}

Json gguf_config(const GgufFile& file, const GgufFamily& family, ModelConfig& config) {
  Json json = config_from_metadata(file, family);
  const std::string place = file.path() + " (metadata in the terms of config.json)";
  config = parse_config(json, place);
  check_head_sizes(Metadata(file, family), config);
  add_rope_tensor(file, config.rope.theta, config.head_dim, json);
  config = parse_config(json, place);
  return json;
}

}  // namespace voronoi::model
