#include "model/gguf_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <numbers>
#include <optional>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/log.h"
#include "model/gguf.h"
#include "model/weight_data.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::Json;

struct NamePair {
  std::string_view ours, gguf;
};
constexpr std::array<NamePair, 3> kModelNames{
    {{"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}}};
constexpr std::array<NamePair, 11> kBlockNames{{{"input_layernorm", "attn_norm"},
                                                {"post_attention_layernorm", "ffn_norm"},
                                                {"self_attn.q_proj", "attn_q"},
                                                {"self_attn.k_proj", "attn_k"},
                                                {"self_attn.v_proj", "attn_v"},
                                                {"self_attn.o_proj", "attn_output"},
                                                {"self_attn.q_norm", "attn_q_norm"},
                                                {"self_attn.k_norm", "attn_k_norm"},
                                                {"mlp.gate_proj", "ffn_gate"},
                                                {"mlp.up_proj", "ffn_up"},
                                                {"mlp.down_proj", "ffn_down"}}};

/// Keys behind the architecture's name that are read, or that change nothing that is computed.
constexpr auto kKnownKeys = std::to_array<std::string_view>({"context_length",
                                                             "embedding_length",
                                                             "feed_forward_length",
                                                             "block_count",
                                                             "vocab_size",
                                                             "tensor_data_layout",
                                                             "expert_count",
                                                             "expert_used_count",
                                                             "attention.head_count",
                                                             "attention.head_count_kv",
                                                             "attention.key_length",
                                                             "attention.value_length",
                                                             "attention.layer_norm_rms_epsilon",
                                                             "rope.dimension_count",
                                                             "rope.freq_base",
                                                             "rope.scale_linear",
                                                             "rope.scaling.type",
                                                             "rope.scaling.factor",
                                                             "rope.scaling.attn_factor",
                                                             "rope.scaling.original_context_length",
                                                             "rope.scaling.finetuned",
                                                             "rope.scaling.yarn_beta_fast",
                                                             "rope.scaling.yarn_beta_slow"});

/// "model.layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight"; empty when the file format has no such tensor.
std::string gguf_name(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return "";
  const std::string_view module = name.substr(0, dot), ending = name.substr(dot);
  for (const NamePair& pair : kModelNames)
    if (pair.ours == module) return std::string(pair.gguf) + std::string(ending);
  constexpr std::string_view kBlocks = "model.layers.";
  if (!module.starts_with(kBlocks)) return "";
  const std::string_view inner = module.substr(kBlocks.size());
  const std::size_t number_end = std::min(inner.find('.'), inner.size() - 1);
  for (const NamePair& pair : kBlockNames)
    if (pair.ours == inner.substr(number_end + 1))
      return fmt::format("blk.{}.{}{}", inner.substr(0, number_end), pair.gguf, ending);
  return "";
}

/// The decimal number that an F32 stands for: 1e-5, not 9.99999974e-06.
double as_decimal(double value) {
  const auto narrow = static_cast<float>(value);
  return static_cast<double>(narrow) == value && std::isfinite(value)
             ? std::strtod(fmt::format("{}", narrow).c_str(), nullptr)
             : value;
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

/// As llama.cpp takes them: without a type the scaling is linear, files of 2023 have the factor under another key, and
/// without a factor, or with 0, nothing is scaled.
void add_rope_scaling(const GgufFile& file, const std::string& arch, Json& config) {
  const GgufValue* stated = file.find(arch + ".rope.scaling.type");
  const std::string type = stated != nullptr ? stated->as_string() : "linear";
  const GgufValue* factor = file.find(arch + ".rope.scaling.factor");
  if (factor == nullptr) factor = file.find(arch + ".rope.scale_linear");
  const bool scaled = factor != nullptr && factor->as_f64() != 0;
  if (type == "none" || (type == "linear" && !scaled)) return;
  if (type == "longrope")
    throw FormatError(file.path(), "key \"" + arch +
                                       ".rope.scaling.type\": is \"longrope\", which is read from Hugging Face "
                                       "directories alone");
  Json scaling{{"rope_type", type}};
  if (scaled) scaling["factor"] = as_decimal(factor->as_f64());
  const auto number = [&](const char* key, const char* ours) {
    if (const GgufValue* value = file.find(arch + ".rope.scaling." + key)) scaling[ours] = as_decimal(value->as_f64());
  };
  number("yarn_beta_fast", "beta_fast");
  number("yarn_beta_slow", "beta_slow");
  if (const GgufValue* value = file.find(arch + ".rope.scaling.original_context_length"))
    scaling["original_max_position_embeddings"] = value->as_i64();
  if (const GgufValue* value = file.find(arch + ".rope.scaling.attn_factor"); value != nullptr && value->as_f64() != 1)
    throw FormatError(file.path(),
                      "key \"" + arch + ".rope.scaling.attn_factor\": a factor other than 1 is not supported");
  config["rope_scaling"] = std::move(scaling);
}

/// The metadata as a config.json, so that one parser checks both.
Json config_from_metadata(const GgufFile& file) {
  const std::string& arch = file.at("general.architecture").as_string();
  Json config{{"model_type", arch}};
  const auto key = [&](std::string_view name) { return arch + "." + std::string(name); };
  const auto integer = [&](std::string_view name, const char* ours, bool required) {
    if (const GgufValue* value = required ? &file.at(key(name)) : file.find(key(name))) config[ours] = value->as_i64();
  };
  if (arch != "llama" && arch != "qwen2" && arch != "qwen3") {
    // GGUF files call a mistral a llama.
    if (arch == "mistral")
      throw FormatError(file.path(), "key \"general.architecture\": \"mistral\" is no architecture of GGUF files");
    throw FormatError(file.path(),
                      "key \"general.architecture\": " + core::quote_text(arch) +
                          " is not read from GGUF files, only llama, qwen2 and qwen3 are; give the model's "
                          "Hugging Face directory");
  }
  if (const GgufValue* experts = file.find(key("expert_count")); experts != nullptr && experts->as_u64() > 0)
    throw FormatError(file.path(), "key \"" + key("expert_count") +
                                       "\": mixtures of experts are not read from GGUF files; give the "
                                       "model's Hugging Face directory");
  integer("embedding_length", "hidden_size", true);
  integer("feed_forward_length", "intermediate_size", true);
  integer("block_count", "num_hidden_layers", true);
  integer("attention.head_count", "num_attention_heads", true);
  config["num_key_value_heads"] = config["num_attention_heads"];
  integer("attention.head_count_kv", "num_key_value_heads", false);
  integer("context_length", "max_position_embeddings", false);
  config["rms_norm_eps"] = as_decimal(file.at(key("attention.layer_norm_rms_epsilon")).as_f64());
  const GgufValue* theta = file.find(key("rope.freq_base"));
  config["rope_theta"] = theta != nullptr ? as_decimal(theta->as_f64()) : 10000.0;
  // A null head size asks for hidden / heads, also where the class has a default of its own.
  config["head_dim"] = nullptr;
  integer("attention.key_length", "head_dim", false);
  add_rope_scaling(file, arch, config);

  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr) throw FormatError(file.path(), "tensor token_embd.weight is missing");
  config["vocab_size"] = embedding->shape.front();
  config["tie_word_embeddings"] = file.find_tensor("output.weight") == nullptr;
  config["attention_bias"] = file.find_tensor("blk.0.attn_output.bias") != nullptr ||
                             (arch == "llama" && file.find_tensor("blk.0.attn_q.bias") != nullptr);
  config["mlp_bias"] = file.find_tensor("blk.0.ffn_down.bias") != nullptr;
  config["bos_token_id"] = nullptr;
  if (const GgufValue* bos = file.find("tokenizer.ggml.bos_token_id")) config["bos_token_id"] = bos->as_i64();
  if (const GgufValue* end = file.find("tokenizer.ggml.eos_token_id")) config["eos_token_id"] = end->as_i64();
  return config;
}

/// What the metadata must agree with once the sizes are known.
void check_heads(const GgufFile& file, const std::string& arch, std::int64_t head_dim) {
  for (const std::string_view name : {".rope.dimension_count", ".attention.value_length"}) {
    const std::string key = arch + std::string(name);
    const GgufValue* value = file.find(key);
    if (value != nullptr && value->as_i64() != head_dim)
      throw FormatError(file.path(),
                        fmt::format("key \"{}\": is {}, but the heads have size {}; other sizes are not supported", key,
                                    value->as_i64(), head_dim));
  }
}

/// The metadata as a config.json with what only tensors tell; `config`: the same, parsed and checked.
Json complete_config(const GgufFile& file, ModelConfig& config) {
  Json json = config_from_metadata(file);
  const std::string place = file.path() + " (metadata in the terms of config.json)";
  config = parse_config(json, place);
  check_heads(file, file.at("general.architecture").as_string(), config.head_dim);
  add_rope_tensor(file, config.rope.theta, config.head_dim, json);
  config = parse_config(json, place);
  return json;
}

class GgufWeights final : public WeightSource {
 public:
  explicit GgufWeights(const std::string& path) : file_(path), path_(path) {
    if (const GgufValue* split = file_.find("split.count"); split != nullptr && split->as_u64() > 1)
      throw FormatError(path, "is one part of a split model; join the parts first (llama-gguf-split --merge)");
    complete_config(file_, config_);
    interleaved_ = file_.at("general.architecture").as_string() == "llama";
    std::vector<std::string_view> stored;
    for (const GgufTensor& tensor : file_.tensors()) stored.push_back(tensor.name);
    require_tensors(config_, path, stored, [this](const std::string& name) -> std::optional<core::Shape> {
      const GgufTensor* tensor = file_.find_tensor(gguf_name(name));
      if (tensor == nullptr) return std::nullopt;
      if (!can_dequantize(tensor->type))
        throw FormatError(path_,
                          fmt::format("tensor {}: is stored as {}; F32, F16, BF16, Q8_0, Q4_0, Q4_1 or Q6_K is wanted",
                                      tensor->name, ggml_type_name(tensor->type)));
      quantized_ = quantized_ || is_quantized(tensor->type);
      return tensor->shape;
    });
    const bool bfloat = !quantized_ && file_.find_tensor("blk.0.ffn_down.weight")->type == GgmlType::bf16;
    config_.stored_dtype = bfloat ? core::DType::bf16 : core::DType::f16;
    warn_unread();
    warn_of_keys();
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& path() const override { return path_; }

  void read(const TensorSpec& spec, std::span<float> out) const override {
    const GgufTensor* tensor = file_.find_tensor(gguf_name(spec.name));
    if (tensor == nullptr) throw FormatError(path_, "tensor " + spec.name + ": is missing");
    const std::string name = spec.name + " (" + tensor->name + ")";
    if (tensor->shape != spec.shape)
      throw FormatError(path_, fmt::format("tensor {}: has shape {}; {} is wanted", name,
                                           core::to_string(tensor->shape), core::to_string(spec.shape)));
    if (!can_dequantize(tensor->type))
      throw FormatError(path_, fmt::format("tensor {}: {} cannot be read", name, ggml_type_name(tensor->type)));
    VORONOI_REQUIRE(std::cmp_equal(core::element_count(spec.shape).value_or(-1), out.size()), spec.name);
    std::optional<BadValues> bad;  // named as it stands in the file
    const bool good = decode(*tensor, out);
    file_.require_unchanged();
    if (!good)
      bad = bad_values(path_, name, spec.shape,
                       [&](std::int64_t i) { return static_cast<double>(out[static_cast<std::size_t>(i)]); });
    if (interleaved_ && spec.name.find(".self_attn.q_proj.") != std::string::npos) to_halves(out, config_.n_heads);
    if (interleaved_ && spec.name.find(".self_attn.k_proj.") != std::string::npos) to_halves(out, config_.n_kv_heads);
    if (bad) throw std::move(*bad);
  }

  std::string fingerprint() const override {
    core::Sha256 hash;
    add_samples(hash, std::filesystem::path(path_).filename().string(), file_.bytes(), file_.header_bytes());
    file_.require_unchanged();
    return hash.hex();
  }

 private:
  /// False when a value is bad; chunk by chunk, so that the three passes over a chunk find it in the cache.
  bool decode(const GgufTensor& tensor, std::span<float> out) const {
    constexpr std::size_t kChunk = 8192;  // whole blocks of every format
    const auto block = static_cast<std::size_t>(ggml_block_elements(tensor.type)),
               block_bytes = static_cast<std::size_t>(ggml_block_bytes(tensor.type));
    bool good = true;
    for (std::size_t begin = 0; begin < out.size(); begin += kChunk) {
      const auto values = out.subspan(begin, std::min(kChunk, out.size() - begin));
      dequantize(tensor.type, tensor.bytes.subspan(begin / block * block_bytes, values.size() / block * block_bytes),
                 values);
      if (quantized_) round_to_half(values);
      good = all_finite(values) && good;
    }
    return good;
  }

  /// Rows of each head from (0, 0', 1, 1', ...), where i and i' turn together, to (0, 1, ..., 0', 1', ...).
  void to_halves(std::span<float> values, std::int64_t n_heads) const {
    const auto head_size = values.size() / static_cast<std::size_t>(n_heads);
    const auto half = static_cast<std::size_t>(config_.head_dim) / 2, width = head_size / (2 * half);
    std::vector<float> head(head_size);
    for (std::size_t start = 0; start < values.size(); start += head_size) {
      std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(start), head_size, head.begin());
      for (std::size_t row = 0; row < 2 * half; ++row) {
        const std::size_t target = row / 2 + (row % 2) * half;
        std::copy_n(head.begin() + static_cast<std::ptrdiff_t>(row * width), width,
                    values.begin() + static_cast<std::ptrdiff_t>(start + target * width));
      }
    }
  }

  void warn_unread() const {
    std::vector<std::string> read{"rope_freqs.weight"};
    for (const TensorSpec& spec : expected_tensors(config_)) read.push_back(gguf_name(spec.name));
    std::sort(read.begin(), read.end());
    std::size_t n_unread = 0;
    std::string first;
    for (const GgufTensor& tensor : file_.tensors()) {
      if (std::binary_search(read.begin(), read.end(), tensor.name)) continue;
      if (n_unread++ == 0) first = tensor.name;
    }
    if (n_unread > 0)
      core::log_warning("{}: {} tensors are not part of a {} model and are not read; the first is {}", path_, n_unread,
                        config_.model_type, core::quote_text(first));
  }

  /// An unknown key of the architecture may ask for what is not computed here.
  void warn_of_keys() const {
    const std::string prefix = file_.at("general.architecture").as_string() + ".";
    std::string unknown;
    for (const auto& [key, value] : file_.values()) {
      if (!key.starts_with(prefix)) continue;
      const std::string_view name = std::string_view(key).substr(prefix.size());
      if (std::find(kKnownKeys.begin(), kKnownKeys.end(), name) == kKnownKeys.end())
        unknown += (unknown.empty() ? "" : ", ") + key;
    }
    if (!unknown.empty())
      core::warn_once(
          fmt::format("{}: keys that are not known here have no effect: {}", path_, core::printable(unknown)));
  }

  GgufFile file_;
  std::string path_;
  ModelConfig config_;
  bool interleaved_ = false;  ///< q and k rows are in the order of ggml's rope for llama
  bool quantized_ = false;    ///< some tensor is quantized: all are read as the file's F16 export would hold them
};

}  // namespace

Json gguf_config_json(const std::string& path) {
  const GgufFile file(path);
  ModelConfig config;
  Json json{{"architectures", Json::array()}};
  json.update(complete_config(file, config));
  json["architectures"].push_back(class_name(config.model_type));
  json["hidden_act"] = "silu";
  json["max_position_embeddings"] = config.max_position;
  json["head_dim"] = config.head_dim;  // some classes take null for a size
  for (const char* name : {"bos_token_id", "eos_token_id"}) json.erase(name);
  for (const auto& [key, ours] :
       {std::pair{"tokenizer.ggml.bos_token_id", "bos_token_id"}, {"tokenizer.ggml.eos_token_id", "eos_token_id"}})
    if (const GgufValue* value = file.find(key)) json[ours] = value->as_i64();
  return json;
}

std::unique_ptr<WeightSource> open_gguf_model(const std::string& path) { return std::make_unique<GgufWeights>(path); }

}  // namespace voronoi::model
