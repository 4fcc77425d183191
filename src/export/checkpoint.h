// A checkpoint in a public layout as a source of weights: published ones and our own exports.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "export/layout.h"
#include "model/weights.h"

namespace voronoi::exporting {

/// Whether `path` is a Hugging Face directory whose config.json names a layout that is read here. Throws FormatError
/// when config.json is damaged.
bool is_checkpoint(const std::string& path);

/// Linears of the decoder blocks are decoded from their packed indices; everything else is read as stored. All headers,
/// shapes and settings are checked when it is opened; the checkpoint counts as hostile.
class Checkpoint final : public model::WeightSource {
 public:
  /// `path`: is_checkpoint() holds. Throws FormatError / StoreError naming file and tensor or key.
  explicit Checkpoint(const std::string& path);

  const model::ModelConfig& config() const override { return config_; }
  void read(const model::TensorSpec& spec, std::span<float> out) const override;
  bool read_rows(const model::TensorSpec& spec, std::int64_t first_row, std::span<float> out) const override;
  std::string fingerprint() const override;
  const std::string& path() const override { return path_; }

  model::PackedTensor packed(const model::TensorSpec& spec) const override;

  const Layout& layout() const { return *layout_; }
  /// The quantized linears, in the order of the model.
  const std::vector<std::string>& linears() const { return names_; }
  /// The packed layer as it is stored; InternalError when `linear` is not one of linears(). Throws FormatError when an
  /// index or number of it cannot be.
  format::Encoding encoding(const std::string& linear) const;

  /// What is said of a linear: shape, type and settings, for people.
  core::Json description(const std::string& linear) const;

  /// All bits stored for the linears of the blocks over their weights (16 a weight for one that is not quantized), and
  /// index bits alone.
  double true_bits() const { return true_bits_; }
  double nominal_bits() const { return nominal_bits_; }

 private:
  /// The packed layer behind a tensor, of its shape; nothing when it is none of the quantized linears.
  std::optional<format::Encoding> stored(const model::TensorSpec& spec) const;
  /// The name of that linear.
  std::optional<std::string> quantized_linear(const model::TensorSpec& spec) const;
  void open_layers();

  std::string path_, config_file_, config_text_;
  core::Json json_;
  model::ModelConfig config_;
  model::SafetensorsFolder folder_;
  const Layout* layout_ = nullptr;
  std::unique_ptr<LayerReader> reader_;
  std::vector<std::string> names_;
  std::set<std::string, std::less<>> quantized_;  ///< names_
  double true_bits_ = 0, nominal_bits_ = 0;
};

/// For people: "VPTQ checkpoint", "checkpoint (gptq)".
std::string kind_of(const Checkpoint& checkpoint);

}  // namespace voronoi::exporting
