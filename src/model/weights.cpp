#include "model/weights.h"

#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <set>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/log.h"
#include "model/gguf.h"
#include "model/gguf_weights.h"
#include "model/safetensors_folder.h"
#include "model/weight_data.h"

namespace voronoi::model {
namespace {

namespace fs = std::filesystem;
using core::FormatError;

constexpr const char *kHeadTensor = "lm_head.weight", *kEmbeddingTensor = "model.embed_tokens.weight";

class DirectoryWeights final : public WeightSource {
 public:
  explicit DirectoryWeights(const std::string& path)
      : path_(path),
        config_file_((fs::path(path) / "config.json").string()),
        config_text_(core::read_text_file(config_file_, kMaxConfigBytes)),
        config_json_(core::parse_json(config_text_, config_file_)),
        config_(parse_config(config_json_, config_file_)),
        folder_(path) {
    add_generation_ends(path, config_);
    folder_.take_standard_names(config_.norms.input.empty() ? config_.norms.attention_out : config_.norms.input);
    folder_.set_scaled(scaled_weights(config_json_));
    folder_.add_slices(expert_slices(config_, [this](const std::string& stored, const core::Shape& shape) {
      const SafetensorsFolder::Stored* tensor = folder_.find(stored);
      return tensor == nullptr ? folder_.has_mxfp4(stored, shape) : tensor->tensor->shape == shape;
    }));
    settle_head();
    require_plain_tensors();
    settle_dtype();
    std::set<std::string> expected;
    for (const TensorSpec& spec : expected_tensors(config_)) expected.insert(spec.name);
    folder_.warn_unread(expected, config_.model_type, [&](std::string_view name) { return is_beside(config_, name); });
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& path() const override { return path_; }
  void read(const TensorSpec& spec, std::span<float> out) const override { folder_.read(spec, out); }
  bool read_rows(const TensorSpec& spec, std::int64_t first_row, std::span<float> out) const override {
    return folder_.read_rows(spec, first_row, out);
  }
  void will_read(const TensorSpec& spec) const override { folder_.will_read(spec); }

  void visit_beside(const std::function<void(const StoredTensor&)>& visit) const override {
    std::set<std::string, std::less<>> own;
    for (TensorSpec& spec : expected_tensors(config_)) own.insert(std::move(spec.name));
    for (const auto& [name, stored] : folder_.tensors()) {
      if (own.contains(name) || name == kHeadTensor || !is_beside(config_, name)) continue;
      visit({stored.name, stored.tensor->dtype_name, stored.tensor->shape, stored.tensor->bytes});
      stored.file->require_unchanged();
    }
  }

  std::string stored_name(std::string_view name) const override {
    return config_.wrapper.empty() ? std::string(name) : folder_.stored_name(name);
  }

  std::string fingerprint() const override {
    core::Sha256 hash;
    hash.update(fmt::format("config.json {}\n", config_text_.size())).update(config_text_);
    folder_.add_to_fingerprint(hash);
    return hash.hex();
  }

 private:
  /// What config.json ties may be stored twice, or once under the head's name. As transformers 5 does, the tensors win.
  void settle_head() {
    if (!config_.tied_embeddings) return;
    const SafetensorsFolder::Stored *head = folder_.find(kHeadTensor), *embedding = folder_.find(kEmbeddingTensor);
    if (head == nullptr) return;
    if (embedding == nullptr) {
      folder_.alias(kEmbeddingTensor, kHeadTensor);
    } else if (!folder_.same_values(*head, *embedding)) {
      config_.tied_embeddings = false;
      core::warn_once(fmt::format(
          "{}: \"tie_word_embeddings\" ties the head to the embedding, but {} stores another head; it is used, as "
          "transformers 5 does (transformers 4 drops it)",
          config_file_, folder_.name()));
    }
  }

  /// A "quantization_config" may be left over from before weights were merged; the tensors tell.
  void require_plain_tensors() const {
    const auto quantization = config_json_.find("quantization_config");
    const bool stated = quantization != config_json_.end() && !quantization->is_null();
    try {
      require_tensors(config_, folder_.name(), folder_.stored_names(),
                      [this](const std::string& name) { return folder_.float_shape(name); });
    } catch (const FormatError& error) {
      if (!stated) throw;
      throw FormatError(
          config_file_,
          fmt::format("key \"quantization_config\": the model is quantized already; give its original F32, "
                      "F16 or BF16 weights ({})",
                      error.what()));
    }
    if (stated && folder_.has_narrow_tensors())
      core::log_info(
          "{}: weights that are stored in {} bits are dequantized as they are read; activations are left alone",
          config_file_, scaled_weights(config_json_).kind == ScaledWeights::Kind::mxfp4 ? 4 : 8);
    else if (stated && !(quantization->is_object() && quantization->empty()))
      core::warn_once(
          config_file_ +
          ": \"quantization_config\" is left over: all tensors of the model are plain floats, and are read as "
          "they are; remove the key");
  }

  /// Where config.json does not say the type, it is that of the tensors.
  void settle_dtype() {
    const auto text = config_json_.find("text_config");
    for (const char* key : {"dtype", "torch_dtype"}) {
      if (const auto stated = config_json_.find(key); stated != config_json_.end() && !stated->is_null()) return;
      if (!config_.wrapper.empty() && text->contains(key)) return;
    }
    if (folder_.find(kEmbeddingTensor)->tensor->dtype == core::DType::bf16) config_.stored_dtype = core::DType::bf16;
  }

  std::string path_, config_file_, config_text_;
  core::Json config_json_;
  ModelConfig config_;
  SafetensorsFolder folder_;
};

/// A folder without config.json, by what it holds instead.
[[noreturn]] void refuse_folder(const fs::path& folder) {
  const auto holds = [&](const char* name) { return fs::exists(folder / name); };
  const std::string config = (folder / "config.json").string();
  if (holds("adapter_config.json"))
    throw FormatError(config,
                      "is missing: the folder is an adapter (LoRA); merge it into its model "
                      "(merge_and_unload(), save_pretrained() of peft) and give the merged folder");
  if (holds("params.json"))
    throw FormatError(config,
                      "is missing: the folder has the layout of the model's own publisher (params.json); get "
                      "the version for transformers");
  throw FormatError(config, "is missing; a Hugging Face directory holds it beside the weights");
}

std::unique_ptr<WeightSource> open_path(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status))
    throw core::StoreError(path +
                           ": there is no such file or directory; a Hugging Face directory or a *.gguf file is wanted");
  if (fs::is_directory(status)) {
    if (!fs::exists(fs::path(path) / "config.json")) refuse_folder(path);
    return std::make_unique<DirectoryWeights>(path);
  }
  const fs::path file(path);
  if (is_gguf_file(file)) return open_gguf_model(path);
  if (is_pickle_name(file)) throw FormatError(path, "is a pickle; " + std::string(kPickleRemedy));
  if (file.extension() == ".safetensors" || file.filename() == "config.json")
    throw FormatError(path, "is one file of a model; give the directory that holds config.json and the weights");
  throw FormatError(path, "is neither a Hugging Face directory nor a GGUF file");
}

}  // namespace

bool is_beside(const ModelConfig& config, std::string_view name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!config.wrapper.empty()) return !name.starts_with(kLayers);
  if (name.starts_with("mtp.")) return true;
  if (config.n_extra_layers == 0 || !name.starts_with(kLayers)) return false;
  name.remove_prefix(kLayers.size());
  std::int64_t layer = -1;
  std::from_chars(name.data(), name.data() + name.size(), layer);
  return layer >= config.n_layers && layer < config.n_layers + config.n_extra_layers;
}

std::unique_ptr<WeightSource> open_model(const std::string& path) {
  try {
    return open_path(path);
  } catch (const fs::filesystem_error& error) {
    throw core::StoreError(fmt::format("{}: {}", path, error.what()));
  }
}

}  // namespace voronoi::model
