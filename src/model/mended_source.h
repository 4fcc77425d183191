// A source for forward passes that have to go on where a tensor holds bad values.
#pragma once

#include <map>
#include <mutex>
#include <string>

#include "model/weights.h"

namespace voronoi::model {

/// Reads as another source does, but values that it refuses (BadValues) count as 0, and are remembered. What such a
/// pass gives is not what the model computes: for calibration only, and to be told to the user.
class MendedSource final : public WeightSource {
 public:
  /// `original` must outlive it.
  explicit MendedSource(const WeightSource& original) : original_(original) {}
  const ModelConfig& config() const override { return original_.config(); }
  void read(const TensorSpec& spec, std::span<float> out) const override;
  bool read_rows(const TensorSpec& spec, std::int64_t first_row, std::span<float> out) const override;
  void will_read(const TensorSpec& spec) const override { original_.will_read(spec); }
  PackedTensor packed(const TensorSpec& spec) const override { return original_.packed(spec); }
  std::string fingerprint() const override { return original_.fingerprint(); }
  const std::string& path() const override { return original_.path(); }

  struct Damage {
    std::int64_t n_values = 0;  ///< that count as 0
    std::string error;          ///< of the original's read(): file, tensor, first position and value
  };
  /// Of the tensors read so far, by tensor.
  std::map<std::string, Damage> damage() const;

 private:
  /// Of the tensor's part that begins at that row.
  void mend(const TensorSpec& spec, std::int64_t first_row, const BadValues& bad, std::span<float> out) const;

  const WeightSource& original_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::map<std::int64_t, Damage>> damage_;  ///< tensor, first row of a part
};

}  // namespace voronoi::model
