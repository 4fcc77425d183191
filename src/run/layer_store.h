// Quantized linears and Hessians as files of a run directory.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "calib/collector.h"
#include "format/encoding.h"
#include "model/weights.h"
#include "quant/quantizer.h"
#include "run/run_state.h"
#include "store/start.h"

namespace voronoi::run {

/// Publishes a generation of a quantized linear (RunPaths::layer); returns the SHA-256 of the file. Only deterministic
/// content goes in.
std::string write_layer(const store::Start& start, const std::string& name, std::int64_t generation,
                        const quant::QuantResult& result);
/// Reads it back with every check; throws FormatError. sha256: what was journalled of the file, which must be that,
/// with the remedy in the message; it is summed once, by that or by its own.
format::Encoding read_layer(const store::RunPaths& paths, const std::string& name, std::int64_t generation,
                            const std::string& sha256 = "");

/// Publishes a generation, from 1 on, of a tensor that is no quantized linear; returns the SHA-256 of the file. Throws
/// NumericError for a value that 16 bits cannot hold.
std::string write_tensor(const store::Start& start, const std::string& name, std::int64_t generation,
                         const core::Shape& shape, std::span<const float> values);
/// Into `out`, which has the size of `spec`; throws FormatError.
void read_tensor(const store::RunPaths& paths, const model::TensorSpec& spec, std::int64_t generation,
                 std::span<float> out);

/// Throws FormatError, with the remedy, where the file of a generation of a layer or tensor is not what was journalled.
void require_journalled(const store::RunPaths& paths, const std::string& name, std::int64_t generation,
                        const std::string& sha256);

/// `calibration`: fingerprint of everything that decides the Hessians; the readers refuse a file of another one.
void write_hessian(const store::Start& start, std::int64_t block, const calib::SiteHessian& site,
                   const std::string& calibration);
/// The content of that file, which is to be published at `path`.
std::vector<std::byte> hessian_file(const std::filesystem::path& path, std::int64_t block,
                                    const calib::SiteHessian& site, const std::string& calibration);
/// Throws FormatError / StoreError. n: inputs of the site.
calib::SiteHessian read_hessian(const store::RunPaths& paths, std::int64_t block, const std::string& site,
                                std::int64_t n, const std::string& calibration);

/// A model whose quantized linears are decoded from the stored indices of a run, and whose tensors are the generation
/// that the run published; everything else comes from the original.
class RunSource final : public model::WeightSource {
 public:
  /// `published`: what is taken from the run. `original` must outlive this.
  RunSource(const model::WeightSource& original, store::RunPaths paths, Published published);
  const model::ModelConfig& config() const override { return original_.config(); }
  void read(const model::TensorSpec& spec, std::span<float> out) const override;
  bool read_rows(const model::TensorSpec& spec, std::int64_t first_row, std::span<float> out) const override;
  void will_read(const model::TensorSpec& spec) const override;
  model::PackedTensor packed(const model::TensorSpec& spec) const override;
  std::string fingerprint() const override { return original_.fingerprint(); }
  const std::string& path() const override { return path_; }

 private:
  /// The stored layer behind a tensor, of its shape; nothing when it is none of the quantized linears.
  std::optional<format::Encoding> stored(const model::TensorSpec& spec) const;
  /// Its generation; nothing when it is none.
  std::optional<std::int64_t> generation(const model::TensorSpec& spec) const;

  const model::WeightSource& original_;
  store::RunPaths paths_;
  Published published_;
  std::string path_;
};

}  // namespace voronoi::run
