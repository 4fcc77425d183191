// The safetensors files of a checkpoint: all names, types, shapes and places are known before the first byte of data,
// so that each file may be written by itself, its tensors in any order and none of them held.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/types.h"
#include "export/layer_tensor.h"

namespace voronoi::exporting {

/// Which tensor is where.
class TensorFiles {
 public:
  struct Place {
    std::size_t file = 0;
    std::int64_t offset = 0, size_bytes = 0;  ///< from the beginning of the file
  };

  TensorFiles() = default;
  /// One file model.safetensors, or model-00001-of-0000N.safetensors when the data passes max_file_bytes; a tensor
  /// larger than that stands alone. Tensors keep their order between files; inside a file wider ones come first, so
  /// that every tensor is aligned.
  TensorFiles(const std::vector<TensorPlan>& plan, std::int64_t max_file_bytes);

  std::size_t size() const { return files_.size(); }
  const std::string& name(std::size_t file) const { return files_[file].name; }
  std::int64_t size_bytes(std::size_t file) const { return files_[file].size_bytes; }  ///< header included
  /// What stands before the data.
  const std::string& header(std::size_t file) const { return files_[file].header; }
  bool holds(std::size_t file, std::string_view tensor) const;
  /// InternalError when it was not planned.
  const Place& place(std::string_view tensor) const;
  /// model.safetensors.index.json.
  std::string index() const;

 private:
  struct File {
    std::string name, header;
    std::int64_t size_bytes = 0;
  };
  void add_file(std::string name, const std::vector<TensorPlan>& tensors);

  std::vector<File> files_;
  std::map<std::string, Place, std::less<>> places_;
  std::int64_t total_bytes_ = 0;
};

/// One of them being written. What is not finished does not stay.
class TensorFile {
 public:
  /// Creates `path`, where nothing may be, and writes the header. Throws StoreError.
  TensorFile(const TensorFiles& files, std::size_t file, std::filesystem::path path);
  ~TensorFile();
  TensorFile(const TensorFile&) = delete;
  TensorFile& operator=(const TensorFile&) = delete;

  bool holds(std::string_view tensor) const { return files_.holds(file_, tensor); }
  /// Part of a tensor's data; every byte of every tensor is to be written once. A tensor of another file is passed
  /// over.
  void write(std::string_view tensor, std::int64_t offset, std::span<const std::byte> bytes);
  /// Syncs. InternalError when bytes are missing.
  void finish();

 private:
  const TensorFiles& files_;
  std::size_t file_;
  std::filesystem::path path_;
  core::OutputFile out_;
  std::int64_t missing_bytes_;
  bool finished_ = false;
};

}  // namespace voronoi::exporting
