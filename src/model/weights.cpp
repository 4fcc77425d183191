#include "model/weights.h"

#include <fmt/format.h>

#include <filesystem>
#include <set>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/json.h"
#include "model/gguf_weights.h"
#include "model/safetensors_folder.h"
#include "model/weight_data.h"

namespace voronoi::model {
namespace {

namespace fs = std::filesystem;
using core::FormatError;

class DirectoryWeights final : public WeightSource {
 public:
  explicit DirectoryWeights(const std::string& path)
      : path_(path),
        config_file_((fs::path(path) / "config.json").string()),
        config_text_(core::read_text_file(config_file_, kMaxConfigBytes)),
        config_(parse_config(core::parse_json(config_text_, config_file_), config_file_)),
        folder_(path) {
    require_tensors(config_, folder_.name(), folder_.tensors().size(),
                    [this](const std::string& name) { return folder_.float_shape(name); });
    std::set<std::string> expected;
    for (const TensorSpec& spec : expected_tensors(config_)) expected.insert(spec.name);
    folder_.warn_unread(expected, config_.model_type);
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& path() const override { return path_; }
  void read(const TensorSpec& spec, std::span<float> out) const override { folder_.read(spec, out); }

  std::string fingerprint() const override {
    core::Sha256 hash;
    hash.update(fmt::format("config.json {}\n", config_text_.size())).update(config_text_);
    folder_.add_to_fingerprint(hash);
    return hash.hex();
  }

 private:
  std::string path_, config_file_, config_text_;
  ModelConfig config_;
  SafetensorsFolder folder_;
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
