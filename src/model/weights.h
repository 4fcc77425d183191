// Where weights come from: a Hugging Face directory, a GGUF file, or a run whose linears are decoded from stored
// indices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/error.h"
#include "model/config.h"
#include "model/linear_weight.h"

namespace voronoi::model {

/// A tensor that is there in its right shape but holds a NaN, an infinity or a magnitude above 65504 (not representable
/// in F16); the message names file, tensor, first position and value.
class BadValues : public core::FormatError {
 public:
  using core::FormatError::FormatError;
};

/// A tensor as its file has it.
struct StoredTensor {
  std::string_view name, dtype;  ///< "F8_E4M3"
  core::Shape shape;
  std::span<const std::byte> bytes;
};

/// Whether a tensor, by the names of model/tensor_names.h, is of what a checkpoint has beside the language model: the
/// other parts of a wrapper, and what predicts further tokens.
bool is_beside(const ModelConfig& config, std::string_view name);

/// Tensors by Hugging Face name, as float. Read-only and safe to use from several threads.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual const ModelConfig& config() const = 0;
  /// Fills out (exactly the elements of `spec.shape`) row-major. Throws FormatError naming file and tensor when it is
  /// missing or of another shape or type; BadValues when a value is bad: `out` is filled then too, bad values as what
  /// is not finite or above 65504.
  virtual void read(const TensorSpec& spec, std::span<float> out) const = 0;
  /// The same of a matrix's rows from first_row on, as many as `out` has room for; what read() throws, of these rows.
  /// False, and nothing done, where the source reads a tensor only as a whole.
  virtual bool read_rows(const TensorSpec& /*spec*/, std::int64_t /*first_row*/, std::span<float> /*out*/) const {
    return false;
  }
  /// The tensor as it is stored packed, checked; null when it is stored in another way. read() gives the same
  /// numbers decoded.
  virtual PackedTensor packed(const TensorSpec& /*spec*/) const { return nullptr; }
  /// That a tensor will soon be read, for a source that can fetch it meanwhile; a hint.
  virtual void will_read(const TensorSpec& /*spec*/) const {}
  /// What a checkpoint has beside the language model, tensor by tensor; nothing by default.
  virtual void visit_beside(const std::function<void(const StoredTensor&)>& /*visit*/) const {}
  /// What a tensor of the language model is called within a wrapper's checkpoint; else its name.
  virtual std::string stored_name(std::string_view name) const { return std::string(name); }
  /// Identifies the content: SHA-256 over config, headers, sizes and sampled pages of the data.
  virtual std::string fingerprint() const = 0;
  /// Path as given by the user.
  virtual const std::string& path() const = 0;
};

/// Largest config.json that is read.
inline constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 26;

/// Opens a Hugging Face directory (config.json + *.safetensors, one or many with an index) or a *.gguf file; all
/// headers are checked against expected_tensors() before this returns, no tensor data is read. Pickles (*.bin, *.pt,
/// *.pth) are refused with the remedy. Throws FormatError / StoreError.
std::unique_ptr<WeightSource> open_model(const std::string& path);

}  // namespace voronoi::model
