// The safetensors files of a checkpoint, written in any order without holding them: all names, types and shapes are
// known before the first byte of data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/types.h"
#include "export/layer_tensor.h"

namespace voronoi::exporting {

class TensorFiles {
 public:
  /// Creates the files in `directory` (model.safetensors, or model-00001-of-0000N.safetensors when the data passes
  /// max_file_bytes; a tensor larger than that stands alone) and writes their headers. Tensors keep their order between
  /// files; inside a file wider ones come first, so that every tensor is aligned. Throws StoreError.
  TensorFiles(const std::filesystem::path& directory, const std::vector<TensorPlan>& plan, std::int64_t max_file_bytes);

  /// Part of a tensor's data; every byte of every tensor is to be written once.
  void write(const std::string& tensor, std::int64_t offset, std::span<const std::byte> bytes);
  /// Syncs all files and writes model.safetensors.index.json. InternalError when bytes are missing.
  void finish();

 private:
  struct Place {
    std::size_t file = 0;
    std::int64_t offset = 0, size_bytes = 0;
  };
  void write_header(std::size_t file, const std::vector<TensorPlan>& tensors);

  std::filesystem::path directory_;
  std::vector<std::string> names_;
  std::vector<std::unique_ptr<core::OutputFile>> files_;
  std::map<std::string, Place, std::less<>> places_;
  std::int64_t missing_bytes_ = 0, total_bytes_ = 0;
};

}  // namespace voronoi::exporting
