// One safetensors file: 8 bytes of header length, a JSON header, the data. Mapped, never copied. The file counts as
// hostile: the whole header is checked when it is opened. Layout after the README of huggingface/safetensors.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/mapped_file.h"
#include "core/types.h"

namespace voronoi::model {

struct SafetensorsTensor {
  std::string dtype_name;            ///< as in the file: "BF16"
  std::optional<core::DType> dtype;  ///< nothing for types the format has and this program does not (F8, BOOL, ...)
  core::Shape shape;
  std::span<const std::byte> bytes;
};

class SafetensorsFile {
 public:
  /// Throws StoreError when the file cannot be opened, FormatError naming file and tensor or byte.
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, SafetensorsTensor, std::less<>>& tensors() const { return tensors_; }
  /// nullptr when the name is absent.
  const SafetensorsTensor* find(std::string_view name) const;
  /// The whole file, and the part before the tensor data.
  std::span<const std::byte> bytes() const { return file_.bytes(); }
  /// After tensor data was read, before it counts: see core::MappedFile.
  void require_unchanged() const { file_.require_unchanged(); }
  std::span<const std::byte> header_bytes() const { return file_.bytes().first(data_start_); }

 private:
  core::MappedFile file_;
  std::map<std::string, SafetensorsTensor, std::less<>> tensors_;
  std::size_t data_start_ = 0;
};

}  // namespace voronoi::model
