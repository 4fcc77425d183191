// Small model files made at test time, in a folder that goes away with its object.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "core/types.h"

namespace voronoi::test {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "voronoi-model-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) ADD_FAILURE() << "cannot make " << pattern;
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string write(const std::string& name, std::string_view content) const {
    const std::string file = path_ + "/" + name;
    std::ofstream(file, std::ios::binary) << content;
    return file;
  }

 private:
  std::string path_;
};

/// The bytes of a number, little-endian.
template <class T>
std::string bytes_of(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

/// n values as the bytes of a float type.
inline std::string encode(core::DType dtype, const std::vector<float>& values) {
  std::string bytes;
  for (const float value : values) {
    if (dtype == core::DType::f32)
      bytes += bytes_of(value);
    else if (dtype == core::DType::f64)
      bytes += bytes_of(static_cast<double>(value));
    else
      bytes += bytes_of(core::to_bits16(dtype, value));
  }
  return bytes;
}

struct FileTensor {
  std::string name, dtype;
  core::Shape shape;
  std::string bytes;
};

inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
  return bytes_of(static_cast<std::uint64_t>(header.size())) + std::string(header) + std::string(data);
}

inline std::string safetensors_bytes(const std::vector<FileTensor>& tensors) {
  core::Json header = core::Json::object();
  std::string data;
  for (const FileTensor& tensor : tensors) {
    const std::size_t begin = data.size();
    data += tensor.bytes;
    header[tensor.name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return safetensors_bytes(header.dump(), data);
}

/// A GGUF file (version 3), written piece by piece.
class GgufWriter {
 public:
  GgufWriter& text(const std::string& key, const std::string& value) { return entry(key, 8, string_bytes(value)); }
  GgufWriter& u32(const std::string& key, std::uint32_t value) { return entry(key, 4, bytes_of(value)); }
  GgufWriter& f32(const std::string& key, float value) { return entry(key, 6, bytes_of(value)); }
  /// A value of any type, its bytes given.
  GgufWriter& entry(const std::string& key, std::uint32_t type, const std::string& bytes) {
    ++n_keys_;
    keys_ += string_bytes(key) + bytes_of(type) + bytes;
    return *this;
  }
  /// shape: row-major, outermost first.
  GgufWriter& tensor(const std::string& name, std::uint32_t type, const core::Shape& shape, const std::string& bytes) {
    ++n_tensors_;
    tensors_ += string_bytes(name) + bytes_of(static_cast<std::uint32_t>(shape.size()));
    for (auto size = shape.rbegin(); size != shape.rend(); ++size)
      tensors_ += bytes_of(static_cast<std::uint64_t>(*size));
    tensors_ += bytes_of(type) + bytes_of(static_cast<std::uint64_t>(data_.size()));
    data_ += bytes;
    data_.resize((data_.size() + 31) / 32 * 32, '\0');
    return *this;
  }
  std::string bytes() const {
    std::string file =
        "GGUF" + bytes_of(std::uint32_t{3}) + bytes_of(n_tensors_) + bytes_of(n_keys_) + keys_ + tensors_;
    file.resize((file.size() + 31) / 32 * 32, '\0');
    return file + data_;
  }
  static std::string string_bytes(const std::string& text) {
    return bytes_of(static_cast<std::uint64_t>(text.size())) + text;
  }

 private:
  std::uint64_t n_tensors_ = 0, n_keys_ = 0;
  std::string keys_, tensors_, data_;
};

}  // namespace voronoi::test
