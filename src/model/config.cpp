#include "model/config.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::Json;

enum class Biases { none, qkv, by_key };     // by_key: q, k, v and o as "attention_bias" says
enum class Windows { none, all, by_layer };  // by_layer: "use_sliding_window" with "layer_types" or "max_window_layers"

/// What the class of an architecture says where config.json is silent: the defaults of the configuration classes in
/// transformers 4.57, which leaves keys equal to them out of the file.
struct Family {
  std::string_view model_type, class_name;
  std::int64_t n_kv_heads;                    ///< 0: as many as heads
  std::int64_t head_dim;                      ///< 0: hidden / heads
  std::int64_t max_position, window, bos_id;  ///< bos_id < 0: none
  double norm_eps;
  Biases biases;
  bool mlp_bias_key, qk_norm;
  Windows windows;
};

constexpr std::array<Family, 4> kFamilies{{
    {"llama", "LlamaForCausalLM", 0, 0, 2048, 0, 1, 1e-6, Biases::by_key, true, false, Windows::none},
    {"mistral", "MistralForCausalLM", 8, 0, 131072, 4096, 1, 1e-6, Biases::none, false, false, Windows::all},
    {"qwen2", "Qwen2ForCausalLM", 32, 0, 32768, 4096, -1, 1e-6, Biases::qkv, false, false, Windows::by_layer},
    {"qwen3", "Qwen3ForCausalLM", 32, 128, 32768, 4096, -1, 1e-6, Biases::by_key, false, true, Windows::by_layer},
}};

constexpr std::array<std::string_view, 6> kNotYet{"mixtral", "qwen2_moe", "qwen3_moe", "gemma", "gemma2", "phi3"};

// No model comes near these; they keep every product of two of them far from overflow.
constexpr std::int64_t kMaxLayers = 100'000;
constexpr std::int64_t kMaxWidth = 10'000'000;
constexpr std::int64_t kMaxHeads = 100'000;
constexpr std::int64_t kMaxPosition = std::int64_t{1} << 40;

std::string supported_list() {
  std::string list;
  for (const Family& family : kFamilies) list += (list.empty() ? "" : ", ") + std::string(family.model_type);
  return list;
}

std::string found_text(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  if (value.is_null()) return "null";
  if (value.is_string()) return "the string " + core::quote_text(value.get_ref<const std::string&>());
  return std::string(value.type_name()) + " " + value.dump();
}

/// Typed look-ups in one object; `prefix` ("rope_scaling.") stands before keys in messages.
class Keys {
 public:
  Keys(const Json& object, const std::string& file, std::string prefix = "")
      : object_(object), file_(file), prefix_(std::move(prefix)) {}

  [[noreturn]] void refuse(std::string_view key, const std::string& message) const {
    throw FormatError(file_, "key \"" + prefix_ + std::string(key) + "\": " + message);
  }
  /// nullptr when the key is absent or null.
  const Json* find(std::string_view key) const {
    const auto entry = object_.find(key);
    return entry == object_.end() || entry->is_null() ? nullptr : &*entry;
  }
  bool is_absent(std::string_view key) const { return object_.find(key) == object_.end(); }

  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high) const {
    const Json* value = find(key);
    if (value == nullptr)
      refuse(key, std::string(is_absent(key) ? "is missing" : "is null") + "; an integer is wanted");
    const std::string wanted = fmt::format("; an integer from {} to {} is wanted", low, high);
    if (!value->is_number_integer()) refuse(key, "is " + found_text(*value) + wanted);
    const bool fits = !value->is_number_unsigned() ||
                      value->get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()};
    const std::int64_t number = fits ? value->get<std::int64_t>() : 0;
    if (!fits || number < low || number > high) refuse(key, "is " + value->dump() + wanted);
    return number;
  }
  std::int64_t integer_or(std::string_view key, std::int64_t low, std::int64_t high, std::int64_t fallback) const {
    return find(key) == nullptr ? fallback : integer(key, low, high);
  }
  /// A finite number with low < value or, if closed, low <= value.
  double number(std::string_view key, double low, bool closed = false) const {
    const Json* value = find(key);
    if (value == nullptr) refuse(key, "is missing; a number is wanted");
    if (!value->is_number()) refuse(key, "is " + found_text(*value) + "; a number is wanted");
    const double found = value->get<double>();
    if (!std::isfinite(found) || !(closed ? found >= low : found > low))
      refuse(key, fmt::format("is {}; a finite number {} {} is wanted", value->dump(), closed ? "of at least" : "above",
                              low));
    return found;
  }
  double number_or(std::string_view key, double low, double fallback, bool closed = false) const {
    return find(key) == nullptr ? fallback : number(key, low, closed);
  }
  bool boolean_or(std::string_view key, bool fallback) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) refuse(key, "is " + found_text(*value) + "; true or false is wanted");
    return value->get<bool>();
  }
  /// Empty when the key is absent or null.
  std::string string(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return "";
    if (!value->is_string()) refuse(key, "is " + found_text(*value) + "; a string is wanted");
    return value->get<std::string>();
  }
  const Json* object(std::string_view key) const {
    const Json* value = find(key);
    if (value != nullptr && !value->is_object())
      refuse(key, "is " + found_text(*value) + "; an object or null is wanted");
    return value;
  }
  const std::string& file() const { return file_; }

 private:
  const Json& object_;
  const std::string& file_;
  std::string prefix_;
};

/// The family by "model_type" or, where that is missing, by the class in "architectures".
const Family& find_family(const Keys& keys) {
  const std::string type = keys.string("model_type");
  for (const Family& family : kFamilies)
    if (family.model_type == type) return family;
  for (const std::string_view known : kNotYet)
    if (known == type)
      throw FormatError(keys.file(), fmt::format("architecture \"{}\" is known but not supported yet; supported: {}",
                                                 type, supported_list()));
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

RopeConfig parse_rope(const Keys& keys, std::int64_t max_position) {
  RopeConfig rope;
  // "rope_parameters" is the newer spelling, with theta inside.
  const bool newer = keys.find("rope_parameters") != nullptr;
  const std::string name = newer ? "rope_parameters" : "rope_scaling";
  const Json* scaling = keys.object(name);
  rope.theta = keys.number_or("rope_theta", 0, 10000);
  if (keys.number_or("partial_rotary_factor", 0, 1) != 1)
    keys.refuse("partial_rotary_factor", "is not 1: rotary embeddings on a part of the head are not supported");
  if (scaling == nullptr) return rope;
  const Keys inner(*scaling, keys.file(), name + ".");
  rope.theta = inner.number_or("rope_theta", 0, rope.theta);
  const std::string_view type_key = inner.find("rope_type") != nullptr ? "rope_type" : "type";
  const std::string type = inner.string(type_key);
  if (type.empty()) {
    if (newer) return rope;
    inner.refuse("rope_type", "is missing; one of default, linear, llama3, yarn is wanted");
  }
  if (type == "default") return rope;
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
  return rope;
}

std::vector<std::int64_t> parse_windows(const Keys& keys, const Family& family, std::int64_t n_layers) {
  std::vector<std::int64_t> window(static_cast<std::size_t>(n_layers), 0);
  if (family.windows == Windows::none) return window;
  // An absent key means the class default, null means no window.
  std::int64_t width = keys.is_absent("sliding_window") ? family.window : 0;
  width = keys.integer_or("sliding_window", 1, kMaxPosition, width);
  if (family.windows == Windows::all) {
    window.assign(window.size(), width);
    return window;
  }
  if (!keys.boolean_or("use_sliding_window", false)) width = 0;
  const std::int64_t first = keys.integer_or("max_window_layers", 0, kMaxPosition, 28);
  const Json* types = keys.find("layer_types");
  if (types != nullptr && (!types->is_array() || types->size() != window.size()))
    keys.refuse("layer_types", fmt::format("is not a list of {} entries, one a layer", n_layers));
  for (std::size_t layer = 0; layer < window.size(); ++layer) {
    bool windowed = width > 0 && std::cmp_greater_equal(layer, first);
    if (types != nullptr) {
      const Json& type = (*types)[layer];
      windowed = type == "sliding_attention";
      if (!windowed && type != "full_attention")
        keys.refuse("layer_types", fmt::format("entry {} is {}; \"full_attention\" or \"sliding_attention\" is wanted",
                                               layer, found_text(type)));
      if (windowed && width == 0)
        keys.refuse(
            "layer_types",
            fmt::format("entry {} asks for a window, but \"use_sliding_window\" and \"sliding_window\" give none",
                        layer));
    }
    window[layer] = windowed ? width : 0;
  }
  return window;
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
  if (keys.find("quantization_config") != nullptr)
    keys.refuse("quantization_config", "the model is quantized already; give its original F32, F16 or BF16 weights");

  ModelConfig config;
  config.model_type = family.model_type;
  config.hidden_size = keys.integer("hidden_size", 1, kMaxWidth);
  config.intermediate_size = keys.integer("intermediate_size", 1, kMaxWidth);
  config.n_layers = keys.integer("num_hidden_layers", 1, kMaxLayers);
  config.vocab_size = keys.integer("vocab_size", 1, kMaxWidth);
  config.max_position = keys.integer_or("max_position_embeddings", 1, kMaxPosition, family.max_position);
  config.norm_eps = keys.number_or("rms_norm_eps", 0, family.norm_eps, true);
  parse_heads(keys, family, config);
  config.rope = parse_rope(keys, config.max_position);

  const std::string activation = keys.string("hidden_act");
  if (!activation.empty() && activation != "silu" && activation != "swish")
    keys.refuse("hidden_act", "is " + core::quote_text(activation) + "; \"silu\" is wanted");
  const bool attention_bias = family.biases == Biases::by_key && keys.boolean_or("attention_bias", false);
  config.qkv_bias = attention_bias || family.biases == Biases::qkv;
  config.o_bias = attention_bias;
  config.mlp_bias = family.mlp_bias_key && keys.boolean_or("mlp_bias", false);
  config.qk_norm = family.qk_norm;
  config.tied_embeddings = keys.boolean_or("tie_word_embeddings", false);
  config.window = parse_windows(keys, family, config.n_layers);
  const std::int64_t bos =
      keys.integer_or("bos_token_id", 0, config.vocab_size - 1, keys.is_absent("bos_token_id") ? family.bos_id : -1);
  if (bos >= 0 && bos < config.vocab_size) config.bos_id = bos;
  const std::string dtype = keys.string(keys.find("dtype") != nullptr ? "dtype" : "torch_dtype");
  if (dtype == "bfloat16") config.stored_dtype = core::DType::bf16;
  return config;
}

std::string_view class_name(std::string_view model_type) {
  for (const Family& family : kFamilies)
    if (family.model_type == model_type) return family.class_name;
  VORONOI_REQUIRE(false, "no class for " + std::string(model_type));
}

std::vector<SiteSpec> block_sites(const ModelConfig& config, std::int64_t layer) {
  const std::string block = fmt::format("model.layers.{}.", layer);
  const std::int64_t hidden = config.hidden_size, inner = config.intermediate_size;
  const std::int64_t q = config.n_heads * config.head_dim, kv = config.n_kv_heads * config.head_dim;
  return {{"qkv",
           hidden,
           {{block + "self_attn.q_proj", q, hidden, config.qkv_bias},
            {block + "self_attn.k_proj", kv, hidden, config.qkv_bias},
            {block + "self_attn.v_proj", kv, hidden, config.qkv_bias}}},
          {"o", q, {{block + "self_attn.o_proj", hidden, q, config.o_bias}}},
          {"gate_up",
           hidden,
           {{block + "mlp.gate_proj", inner, hidden, config.mlp_bias},
            {block + "mlp.up_proj", inner, hidden, config.mlp_bias}}},
          {"down", inner, {{block + "mlp.down_proj", hidden, inner, config.mlp_bias}}}};
}

std::vector<TensorSpec> expected_tensors(const ModelConfig& config) {
  const std::int64_t hidden = config.hidden_size;
  std::vector<TensorSpec> tensors{{"model.embed_tokens.weight", {config.vocab_size, hidden}}};
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    const std::string block = fmt::format("model.layers.{}.", layer);
    tensors.push_back({block + "input_layernorm.weight", {hidden}});
    tensors.push_back({block + "post_attention_layernorm.weight", {hidden}});
    if (config.qk_norm) {
      tensors.push_back({block + "self_attn.q_norm.weight", {config.head_dim}});
      tensors.push_back({block + "self_attn.k_norm.weight", {config.head_dim}});
    }
    for (const SiteSpec& site : block_sites(config, layer))
      for (const LinearSpec& linear : site.linears) {
        tensors.push_back({linear.name + ".weight", {linear.out_features, linear.in_features}});
        if (linear.has_bias) tensors.push_back({linear.name + ".bias", {linear.out_features}});
      }
  }
  tensors.push_back({"model.norm.weight", {hidden}});
  if (!config.tied_embeddings) tensors.push_back({"lm_head.weight", {config.vocab_size, hidden}});
  return tensors;
}

}  // namespace voronoi::model
