#include "model/gguf_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/log.h"
#include "core/mapped_file.h"
#include "core/work_counts.h"
#include "model/gguf.h"
#include "model/gguf_families.h"
#include "model/weight_data.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::Json;

class GgufWeights final : public WeightSource {
 public:
  explicit GgufWeights(const std::string& path) : file_(path), path_(path) {
    if (const GgufValue* split = file_.find("split.count"); split != nullptr && split->as_u64() > 1)
      throw FormatError(path, "is one part of a split model; join the parts first (llama-gguf-split --merge)");
    family_ = &gguf_family(file_);
    gguf_config(file_, *family_, config_);
    std::vector<std::string_view> stored;
    for (const GgufTensor& tensor : file_.tensors()) stored.push_back(tensor.name);
    require_tensors(config_, path, stored, [this](const std::string& name) { return shape_of(name); });
    config_.stored_dtype = !quantized_ && is_bfloat() ? core::DType::bf16 : core::DType::f16;
    warn_unread();
    warn_of_keys();
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& path() const override { return path_; }

  void read(const TensorSpec& spec, std::span<float> out) const override {
    VORONOI_REQUIRE(std::cmp_equal(core::element_count(spec.shape).value_or(-1), out.size()), spec.name);
    const GgufPlace place = gguf_place(config_, *family_, spec.name);
    const GgufTensor* tensor = file_.find_tensor(place.stored);
    if (tensor == nullptr) {
      if (const auto parts = split_parts(spec.name)) return read_split(spec, *parts, out);
      throw FormatError(path_, "tensor " + spec.name + ": is missing");
    }
    const std::string name = spec.name + " (" + tensor->name + ")";
    if (const core::Shape shape = shape_in(*tensor, place); shape != spec.shape)
      throw FormatError(path_, fmt::format("tensor {}: has shape {}; {} is wanted", name, core::to_string(shape),
                                           core::to_string(spec.shape)));
    const bool shifted = family_->norms_plus_one && spec.name.ends_with("norm.weight");
    std::optional<BadValues> bad;  // named as it stands in the file
    const bool good = decode(*tensor, bytes_in(*tensor, place), shifted ? 1.0F : 0.0F, out);
    file_.require_unchanged();
    if (!good) bad = bad_of(name, spec.shape, out);
    if (family_->paired_rows && spec.name.find(".self_attn.q_proj.") != std::string::npos)
      to_halves(out, config_.n_heads);
    if (family_->paired_rows && spec.name.find(".self_attn.k_proj.") != std::string::npos)
      to_halves(out, config_.n_kv_heads);
    if (bad) throw std::move(*bad);
  }

  /// Whole blocks, as every row is.
  bool read_rows(const TensorSpec& spec, std::int64_t first_row, std::span<float> out) const override {
    const GgufPlace place = gguf_place(config_, *family_, spec.name);
    const GgufTensor* tensor = file_.find_tensor(place.stored);
    // What is read otherwise than as it lies there.
    if (tensor == nullptr || place.expert >= 0 || spec.shape.size() != 2 || tensor->shape != spec.shape ||
        (family_->paired_rows && spec.name.find(".self_attn.") != std::string::npos))
      return false;
    const std::int64_t width = spec.shape.back(), n_rows = std::ssize(out) / width;
    VORONOI_REQUIRE(std::ssize(out) % width == 0 && first_row >= 0 && first_row + n_rows <= spec.shape.front(),
                    spec.name);
    const std::size_t row_bytes = tensor->bytes.size() / static_cast<std::size_t>(spec.shape.front());
    const bool good = decode(*tensor,
                             tensor->bytes.subspan(static_cast<std::size_t>(first_row) * row_bytes,
                                                   static_cast<std::size_t>(n_rows) * row_bytes),
                             0, out);
    file_.require_unchanged();
    if (good) return true;
    throw bad_values(path_, spec.name + " (" + tensor->name + ")", spec.shape, [&](std::int64_t i) {
      const std::int64_t before = first_row * width;
      return i < before ? 0 : static_cast<double>(out[static_cast<std::size_t>(i - before)]);
    });
  }

  void will_read(const TensorSpec& spec) const override {
    if (const GgufTensor* tensor = file_.find_tensor(gguf_place(config_, *family_, spec.name).stored))
      core::will_read(tensor->bytes);
  }

  std::string fingerprint() const override {
    core::Sha256 hash;
    add_samples(hash, std::filesystem::path(path_).filename().string(), file_.bytes(), file_.header_bytes());
    file_.require_unchanged();
    return hash.hex();
  }

 private:
  /// The two halves of a kv_b_proj that newer files have in its place.
  struct SplitParts {
    const GgufTensor *k, *v;
  };

  void require_readable(const GgufTensor& tensor) {
    if (!can_dequantize(tensor.type))
      throw FormatError(path_,
                        fmt::format("tensor {}: is stored as {}; one of {} is wanted: quantize the model to such a "
                                    "type, or give its Hugging Face directory",
                                    tensor.name, ggml_type_name(tensor.type), readable_ggml_types()));
    quantized_ = quantized_ || is_quantized(tensor.type);
  }

  /// What the file has of one of expected_tensors().
  std::optional<core::Shape> shape_of(const std::string& name) {
    const GgufPlace place = gguf_place(config_, *family_, name);
    if (const GgufTensor* tensor = file_.find_tensor(place.stored)) {
      require_readable(*tensor);
      return shape_in(*tensor, place);
    }
    const auto parts = split_parts(name);
    if (!parts) return std::nullopt;
    const LatentConfig& latent = config_.latent;
    for (const auto& [tensor, wanted] :
         {std::pair{parts->k, core::Shape{config_.n_heads, latent.kv_rank, latent.nope}},
          std::pair{parts->v, core::Shape{config_.n_heads, latent.value, latent.kv_rank}}}) {
      require_readable(*tensor);
      if (tensor->shape != wanted)
        throw FormatError(path_, fmt::format("tensor {}: has shape {}, the metadata ask for {}", tensor->name,
                                             core::to_string(tensor->shape), core::to_string(wanted)));
    }
    return core::Shape{config_.n_heads * (latent.nope + latent.value), latent.kv_rank};
  }

  /// The shape of a tensor, or of one expert of it. Throws FormatError where it has not as many as there are.
  core::Shape shape_in(const GgufTensor& tensor, const GgufPlace& place) const {
    core::Shape shape = tensor.shape;
    if (place.expert >= 0) {
      if (shape.size() < 2 || shape.front() != config_.mixture.n_experts)
        throw FormatError(path_, fmt::format("tensor {}: has shape {}; its first size should be the {} experts of the "
                                             "metadata: the file is damaged or was made wrongly",
                                             tensor.name, core::to_string(shape), config_.mixture.n_experts));
      shape.erase(shape.begin());
    }
    // The converter drops the one row of the shared expert's gate.
    if (shape.size() == 1 && tensor.name.find(".ffn_gate_inp_shexp.") != std::string::npos)
      shape.insert(shape.begin(), 1);
    return shape;
  }
  /// Of an expert its share, whole blocks since each row is: only after shape_in() was as wanted.
  std::span<const std::byte> bytes_in(const GgufTensor& tensor, const GgufPlace& place) const {
    if (place.expert < 0) return tensor.bytes;
    const std::size_t size = tensor.bytes.size() / static_cast<std::size_t>(config_.mixture.n_experts);
    return tensor.bytes.subspan(static_cast<std::size_t>(place.expert) * size, size);
  }

  bool is_bfloat() const {
    const GgufTensor* tensor = file_.find_tensor("blk.0.attn_output.weight");
    return tensor != nullptr && tensor->type == GgmlType::bf16;
  }

  BadValues bad_of(const std::string& name, const core::Shape& shape, std::span<const float> values) const {
    return bad_values(path_, name, shape,
                      [&](std::int64_t i) { return static_cast<double>(values[static_cast<std::size_t>(i)]); });
  }

  /// The values less `shift`. False when one is bad; chunk by chunk, so that the passes over a chunk find it in the
  /// cache.
  bool decode(const GgufTensor& tensor, std::span<const std::byte> bytes, float shift, std::span<float> out) const {
    constexpr std::size_t kChunk = 8192;  // whole blocks of every format
    const auto block = static_cast<std::size_t>(ggml_block_elements(tensor.type)),
               block_bytes = static_cast<std::size_t>(ggml_block_bytes(tensor.type));
    bool good = true;
    core::count_work(core::Counted::model_bytes, std::ssize(bytes));
    for (std::size_t begin = 0; begin < out.size(); begin += kChunk) {
      const auto values = out.subspan(begin, std::min(kChunk, out.size() - begin));
      dequantize(tensor.type, bytes.subspan(begin / block * block_bytes, values.size() / block * block_bytes), values);
      if (shift != 0)
        for (float& value : values) value -= shift;
      if (quantized_) round_to_half(values);
      good = all_finite(values) && good;
    }
    return good;
  }

  std::optional<SplitParts> split_parts(const std::string& name) const {
    const std::vector<std::string> names = gguf_split_names(name);
    if (names.size() != 2) return std::nullopt;
    const GgufTensor *k = file_.find_tensor(names[0]), *v = file_.find_tensor(names[1]);
    return k != nullptr && v != nullptr ? std::optional(SplitParts{k, v}) : std::nullopt;
  }

  /// Head by head the rows of k, which lie transposed, then those of v.
  void read_split(const TensorSpec& spec, const SplitParts& parts, std::span<float> out) const {
    std::vector<float> k(static_cast<std::size_t>(core::element_count(parts.k->shape).value_or(0))),
        v(static_cast<std::size_t>(core::element_count(parts.v->shape).value_or(0)));
    VORONOI_REQUIRE(k.size() + v.size() == out.size(), spec.name);
    const bool good_k = decode(*parts.k, parts.k->bytes, 0, k), good_v = decode(*parts.v, parts.v->bytes, 0, v);
    file_.require_unchanged();
    const auto n_heads = static_cast<std::size_t>(config_.n_heads),
               rank = static_cast<std::size_t>(config_.latent.kv_rank),
               nope = static_cast<std::size_t>(config_.latent.nope),
               value = static_cast<std::size_t>(config_.latent.value);
    for (std::size_t head = 0; head < n_heads; ++head) {
      float* rows = out.data() + head * (nope + value) * rank;
      const float* from = k.data() + head * rank * nope;
      for (std::size_t row = 0; row < nope; ++row)
        for (std::size_t column = 0; column < rank; ++column) rows[row * rank + column] = from[column * nope + row];
      std::copy_n(v.data() + head * value * rank, value * rank, rows + nope * rank);
    }
    if (!good_k) throw bad_of(spec.name + " (" + parts.k->name + ")", parts.k->shape, k);
    if (!good_v) throw bad_of(spec.name + " (" + parts.v->name + ")", parts.v->shape, v);
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

  /// Layers for multi-token prediction, which stand behind the others.
  bool is_left_out(std::string_view name) const {
    constexpr std::string_view kBlocks = "blk.";
    if (config_.n_extra_layers == 0 || !name.starts_with(kBlocks)) return false;
    name.remove_prefix(kBlocks.size());
    std::int64_t layer = -1;
    std::from_chars(name.data(), name.data() + name.size(), layer);
    return layer >= config_.n_layers && layer < config_.n_layers + config_.n_extra_layers;
  }

  void warn_unread() const {
    std::vector<std::string> read{"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"};
    for (const TensorSpec& spec : expected_tensors(config_)) {
      read.push_back(gguf_place(config_, *family_, spec.name).stored);
      for (std::string& part : gguf_split_names(spec.name)) read.push_back(std::move(part));
    }
    std::sort(read.begin(), read.end());
    std::size_t n_unread = 0;
    std::string first;
    for (const GgufTensor& tensor : file_.tensors()) {
      if (std::binary_search(read.begin(), read.end(), tensor.name) || is_left_out(tensor.name)) continue;
      if (n_unread++ == 0) first = tensor.name;
    }
    if (n_unread > 0)
      core::log_warning("{}: {} tensors are not part of a {} model and are not read; the first is {}", path_, n_unread,
                        config_.model_type, core::quote_text(first));
  }

  /// An unknown key of the architecture may ask for what is not computed here.
  void warn_of_keys() const {
    const std::string prefix = std::string(family_->arch) + ".";
    const auto is_known = [this](std::string_view name) {
      const auto named = [&](const GgufKey& key) { return key.gguf == name; };
      return std::ranges::any_of(common_gguf_keys(), named) || std::ranges::any_of(family_->keys, named);
    };
    std::string unknown;
    for (const auto& [key, value] : file_.values())
      if (key.starts_with(prefix) && !is_known(std::string_view(key).substr(prefix.size())))
        unknown += (unknown.empty() ? "" : ", ") + key;
    if (!unknown.empty())
      core::warn_once(
          fmt::format("{}: keys that are not known here have no effect: {}", path_, core::printable(unknown)));
  }

  GgufFile file_;
  std::string path_;
  const GgufFamily* family_ = nullptr;
  ModelConfig config_;
  bool quantized_ = false;  ///< some tensor is quantized: all are read as the file's F16 export would hold them
};

}  // namespace

Json gguf_config_json(const std::string& path) {
  const GgufFile file(path);
  ModelConfig config;
  Json json{{"architectures", Json::array()}};
  json.update(gguf_config(file, gguf_family(file), config));
  json["architectures"].push_back(class_name(config.model_type));
  const bool gelu = config.activation == Activation::gelu_tanh;
  json["hidden_act"] = gelu ? "gelu_pytorch_tanh" : "silu";
  if (gelu) json["hidden_activation"] = "gelu_pytorch_tanh";
  json["max_position_embeddings"] = config.max_position;
  // Some classes take null for a size; that of latent attention counts the turned part alone.
  if (config.latent.kv_rank == 0) json["head_dim"] = config.head_dim;
  for (const char* name : {"bos_token_id", "eos_token_id"}) json.erase(name);
  for (const auto& [key, ours] :
       {std::pair{"tokenizer.ggml.bos_token_id", "bos_token_id"}, {"tokenizer.ggml.eos_token_id", "eos_token_id"}})
    if (const GgufValue* value = file.find(key)) json[ours] = value->as_i64();
  return json;
}

std::unique_ptr<WeightSource> open_gguf_model(const std::string& path) { return std::make_unique<GgufWeights>(path); }

}  // namespace voronoi::model
