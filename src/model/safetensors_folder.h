// The tensors of a folder of safetensors files: one whole file, or shards with an index. Headers are checked when it is
// opened, data is read tensor by tensor. The folder counts as hostile.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/hash.h"
#include "model/config.h"
#include "model/fused_experts.h"
#include "model/safetensors.h"
#include "model/scaled_weights.h"

namespace voronoi::model {

inline constexpr std::string_view kPickleRemedy =
    "pickles are never read, because they can run code; convert the model to safetensors (model.save_pretrained(..., "
    "safe_serialization=True)) "
    "or get its safetensors version";
bool is_pickle_name(const std::filesystem::path& path);

class SafetensorsFolder {
 public:
  struct Stored {
    const SafetensorsFile* file = nullptr;
    const SafetensorsTensor* tensor = nullptr;
    std::string_view name;  ///< in its file
  };

  /// Opens model.safetensors, else what model.safetensors.index.json lists, else the only *.safetensors file. Throws
  /// FormatError / StoreError; a folder that holds pickles instead is refused with the remedy.
  explicit SafetensorsFolder(const std::filesystem::path& folder);

  /// From here on tensors go by the names of model/tensor_names.h (norm: see there), which is told where they differ.
  /// Throws FormatError when two tensors come to the same name.
  void take_standard_names(const std::string& norm);
  /// The name in the files, without what other wrappers left in it, of a tensor that may or may not be there.
  std::string stored_name(std::string_view standard) const;
  /// A second name for a tensor that is there.
  void alias(const std::string& name, const std::string& of) { tensors_.emplace(name, tensors_.at(of)); }

  /// Further tensors that are parts of stored ones of the shapes that they name.
  void add_slices(std::map<std::string, ExpertSlice> slices) { slices_ = std::move(slices); }

  /// Tensors of that kind count as those of float types do; see model/scaled_weights.h.
  void set_scaled(const ScaledWeights& scaled) { scaled_ = scaled; }
  /// Whether the experts' tensor `stored` [experts, in, columns] is there as MXFP4.
  bool has_mxfp4(const std::string& stored, const core::Shape& shape) const;
  /// Whether any tensor is stored in 8 or 4 bits.
  bool has_narrow_tensors() const;

  const std::map<std::string, Stored, std::less<>>& tensors() const { return tensors_; }
  /// As they are stored.
  std::vector<std::string_view> stored_names() const;
  /// nullptr when no file has a tensor of that name.
  const Stored* find(std::string_view name) const;
  /// The file that messages about absent tensors name.
  const std::string& name() const { return name_; }

  /// The tensor's shape; nothing when it is absent. Throws FormatError when it is of no float type.
  std::optional<core::Shape> float_shape(const std::string& name) const;
  /// Whether two tensors of float types have the same shape and values. Throws StoreError / FormatError as read() does.
  bool same_values(const Stored& one, const Stored& other) const;
  /// Fills `out` (exactly the elements of spec.shape) row-major as WeightSource::read() does.
  void read(const TensorSpec& spec, std::span<float> out) const;
  /// As WeightSource::read_rows(): where the tensor is stored by itself, in a float type.
  bool read_rows(const TensorSpec& spec, std::int64_t first_row, std::span<float> out) const;
  /// As WeightSource::will_read().
  void will_read(const TensorSpec& spec) const;

  /// For tensors that were read through find(): see core::MappedFile.
  void require_unchanged() const;

  /// Warns of tensors that are not in `expected`: a bias that the config does not announce would be dropped silently,
  /// and the result be another model. A stored copy of a tied head and old rotary tables are no news.
  /// `known`: whether a tensor is known to be of something that is left out.
  void warn_unread(const std::set<std::string>& expected, const std::string& model_type,
                   const std::function<bool(std::string_view name)>& known = nullptr) const;

  /// Adds names, sizes, headers and sampled pages of all files.
  void add_to_fingerprint(core::Sha256& hash) const;

 private:
  const SafetensorsFile& open_file(const std::filesystem::path& folder, const std::string& name);
  void open_whole(const std::filesystem::path& folder, const std::string& name);
  void open_shards(const std::filesystem::path& folder, const std::string& index);

  std::string name_, base_ = "model.";
  std::map<std::string, std::unique_ptr<SafetensorsFile>> files_;
  /// The slice of that name; null: there is none.
  const ExpertSlice* find_slice(const std::string& name) const;
  void read_slice(const TensorSpec& spec, const ExpertSlice& slice, std::span<float> out) const;
  void read_mxfp4(const TensorSpec& spec, const ExpertSlice& slice, std::span<float> out) const;
  /// The tensor as stored, of the shape that is wanted and a type that is read.
  const Stored& stored_as(const TensorSpec& spec) const;
  /// Elements from `first` on of a tensor of a float type.
  void read_plain(const Stored& stored, std::int64_t first, std::span<float> out) const;
  /// The scales of a tensor in FP8; null: it is not, or has none of the right shape.
  const Stored* scales_of(const std::string& name, const Stored& stored) const;
  void read_f8(const TensorSpec& spec, const Stored& stored, const Stored& scales, std::span<float> out) const;

  std::map<std::string, Stored, std::less<>> tensors_;
  std::map<std::string, ExpertSlice> slices_;
  ScaledWeights scaled_;
};

}  // namespace voronoi::model
