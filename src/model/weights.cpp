#include "model/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/log.h"
#include "model/gguf_weights.h"
#include "model/safetensors.h"
#include "model/weight_data.h"

namespace voronoi::model {
namespace {

namespace fs = std::filesystem;
using core::FormatError;
using core::Json;
using core::quote_text;

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 24;
constexpr std::size_t kMaxIndexBytes = std::size_t{1} << 28;
constexpr std::array<std::string_view, 4> kPickleEndings{".bin", ".pt", ".pth", ".ckpt"};
constexpr std::string_view kPickleRemedy =
    "pickles are never read, because they can run code; convert the model to safetensors (model.save_pretrained(..., "
    "safe_serialization=True)) "
    "or get its safetensors version";

bool is_pickle_name(const fs::path& path) {
  return std::find(kPickleEndings.begin(), kPickleEndings.end(), path.extension().string()) != kPickleEndings.end();
}

/// A shard is a plain file name beside the index: nothing that leaves the directory, nothing that is not safetensors.
void check_shard_name(const std::string& index, const std::string& tensor, const std::string& name) {
  const bool plain = !name.empty() && name.front() != '.' && std::none_of(name.begin(), name.end(), [](char c) {
    return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20;
  });
  if (plain && name.ends_with(".safetensors")) return;
  std::string message = fmt::format("tensor {}: shard {} is not the name of a *.safetensors file in the same folder",
                                    quote_text(tensor), quote_text(name));
  if (plain && is_pickle_name(name)) message += "; " + std::string(kPickleRemedy);
  throw FormatError(index, message);
}

/// Tensor -> shard, every name checked.
std::map<std::string, std::string> parse_index(const std::string& path) {
  const Json json = core::parse_json(core::read_text_file(path, kMaxIndexBytes), path);
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (map == json.end() || !map->is_object())
    throw FormatError(path, "key \"weight_map\" is missing or not an object of tensor and shard names");
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string())
      throw FormatError(path, "key \"weight_map\": the shard of " + quote_text(tensor) + " is not a string");
    check_shard_name(path, tensor, shard.get_ref<const std::string&>());
    shards.emplace(tensor, shard.get<std::string>());
  }
  return shards;
}

class DirectoryWeights final : public WeightSource {
 public:
  explicit DirectoryWeights(const std::string& path) : path_(path) {
    const fs::path folder(path);
    const std::string config_path = (folder / "config.json").string();
    config_text_ = core::read_text_file(config_path, kMaxConfigBytes);
    config_ = parse_config(core::parse_json(config_text_, config_path), config_path);
    open_files(folder);
    require_tensors(
        config_, weights_name_, tensors_.size(), [this](const std::string& name) -> std::optional<core::Shape> {
          const auto entry = tensors_.find(name);
          if (entry == tensors_.end()) return std::nullopt;
          const SafetensorsTensor& tensor = *entry->second.tensor;
          if (!is_float(tensor))
            throw FormatError(
                entry->second.file->path(),
                fmt::format("tensor {}: is stored as {}; F32, F16, BF16 or F64 is wanted", name, tensor.dtype_name));
          return tensor.shape;
        });
    warn_unread();
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& path() const override { return path_; }

  void read(const TensorSpec& spec, std::span<float> out) const override {
    const auto entry = tensors_.find(spec.name);
    if (entry == tensors_.end()) throw FormatError(weights_name_, "tensor " + spec.name + ": is missing");
    const SafetensorsTensor& tensor = *entry->second.tensor;
    const std::string& file = entry->second.file->path();
    if (!is_float(tensor))
      throw FormatError(file, fmt::format("tensor {}: is stored as {}; F32, F16, BF16 or F64 is wanted", spec.name,
                                          tensor.dtype_name));
    if (tensor.shape != spec.shape)
      throw FormatError(file, fmt::format("tensor {}: has shape {}; {} is wanted", spec.name,
                                          core::to_string(tensor.shape), core::to_string(spec.shape)));
    VORONOI_REQUIRE(std::cmp_equal(core::element_count(spec.shape).value_or(-1), out.size()), spec.name);
    if (convert_finite(*tensor.dtype, tensor.bytes.data(), out)) return;
    refuse_values(file, spec.name, spec.shape, [&](std::int64_t i) {
      float value;
      core::convert_to_f32(*tensor.dtype, tensor.bytes.data() + i * core::dtype_size(*tensor.dtype), 1, &value);
      return static_cast<double>(value);
    });
  }

  std::string fingerprint() const override {
    core::Sha256 hash;
    hash.update(fmt::format("config.json {}\n", config_text_.size())).update(config_text_);
    for (const auto& [name, file] : files_) add_samples(hash, name, file->bytes(), file->header_bytes());
    return hash.hex();
  }

 private:
  struct Stored {
    const SafetensorsFile* file = nullptr;
    const SafetensorsTensor* tensor = nullptr;
  };

  static bool is_float(const SafetensorsTensor& tensor) {
    return tensor.dtype == core::DType::f32 || tensor.dtype == core::DType::f16 || tensor.dtype == core::DType::bf16 ||
           tensor.dtype == core::DType::f64;
  }

  const SafetensorsFile& open_file(const fs::path& folder, const std::string& name) {
    auto& file = files_[name];
    if (!file) file = std::make_unique<SafetensorsFile>((folder / name).string());
    return *file;
  }

  void open_files(const fs::path& folder) {
    // The order of the reference: one whole file wins over an index.
    const fs::path index = folder / "model.safetensors.index.json";
    if (fs::exists(folder / "model.safetensors")) {
      open_whole(folder, "model.safetensors");
    } else if (fs::exists(index)) {
      open_shards(folder, index.string());
    } else {
      std::vector<std::string> weights, pickles;
      for (const auto& entry : fs::directory_iterator(folder)) {
        if (entry.path().extension() == ".safetensors") weights.push_back(entry.path().filename().string());
        if (is_pickle_name(entry.path())) pickles.push_back(entry.path().filename().string());
      }
      std::sort(pickles.begin(), pickles.end());
      if (weights.size() > 1)
        throw FormatError(
            folder.string(),
            fmt::format(
                "holds {} *.safetensors files, but no model.safetensors.index.json that says which tensor is where",
                weights.size()));
      if (weights.empty() && !pickles.empty())
        throw FormatError((folder / pickles.front()).string(), "is a pickle; " + std::string(kPickleRemedy));
      if (weights.empty())
        throw FormatError(folder.string(), "holds no model.safetensors and no model.safetensors.index.json");
      open_whole(folder, weights.front());
    }
  }

  void open_whole(const fs::path& folder, const std::string& name) {
    const SafetensorsFile& file = open_file(folder, name);
    weights_name_ = file.path();
    for (const auto& [tensor, stored] : file.tensors()) tensors_.emplace(tensor, Stored{&file, &stored});
  }

  void open_shards(const fs::path& folder, const std::string& index) {
    weights_name_ = index;
    for (const auto& [tensor, shard] : parse_index(index)) {
      if (!files_.contains(shard) && !fs::exists(folder / shard))
        throw FormatError(index, fmt::format("tensor {}: its shard {} is not in the folder; download or copy it",
                                             quote_text(tensor), shard));
      const SafetensorsFile& file = open_file(folder, shard);
      const SafetensorsTensor* stored = file.find(tensor);
      if (stored == nullptr)
        throw FormatError(index,
                          fmt::format("tensor {}: is not in {}, the shard the index names", quote_text(tensor), shard));
      tensors_.emplace(tensor, Stored{&file, stored});
    }
  }

  /// A bias that the config does not announce would be dropped silently, and the result be another model.
  void warn_unread() const {
    std::map<std::string, bool> expected;
    for (const TensorSpec& spec : expected_tensors(config_)) expected.emplace(spec.name, true);
    std::size_t n_unread = 0;
    std::string first;
    for (const auto& [name, stored] : tensors_) {
      if (expected.contains(name) || name == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq")) continue;
      if (n_unread++ == 0) first = name;
    }
    if (n_unread > 0)
      core::log_warning("{}: {} tensors are not part of a {} model and are not read; the first is {}", weights_name_,
                        n_unread, config_.model_type, quote_text(first));
  }

  std::string path_;
  std::string config_text_;
  std::string weights_name_;  ///< the file that messages about absent tensors name
  ModelConfig config_;
  std::map<std::string, std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Stored> tensors_;
};

std::unique_ptr<WeightSource> open_path(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status))
    throw core::StoreError(path +
                           ": there is no such file or directory; a Hugging Face directory or a *.gguf file is wanted");
  if (fs::is_directory(status)) {
    if (!fs::exists(fs::path(path) / "config.json"))
      throw FormatError((fs::path(path) / "config.json").string(),
                        "is missing; a Hugging Face directory holds it beside the weights");
    return std::make_unique<DirectoryWeights>(path);
  }
  const fs::path file(path);
  if (file.extension() == ".gguf") return open_gguf_model(path);
  if (is_pickle_name(file)) throw FormatError(path, "is a pickle; " + std::string(kPickleRemedy));
  if (file.extension() == ".safetensors" || file.filename() == "config.json")
    throw FormatError(path, "is one file of a model; give the directory that holds config.json and the weights");
  throw FormatError(path, "is neither a Hugging Face directory nor a *.gguf file");
}

}  // namespace

std::unique_ptr<WeightSource> open_model(const std::string& path) {
  try {
    return open_path(path);
  } catch (const fs::filesystem_error& error) {
    throw core::StoreError(fmt::format("{}: {}", path, error.what()));
  }
}

}  // namespace voronoi::model
