// A few lines that read test tensors, so that the rooms below model need not link its reader. For trusted files only.
#pragma once

#include <cstring>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "core/types.h"

namespace voronoi::test {

struct LiteTensor {
  std::string dtype;  ///< as in the file: "F32", "I16", ...
  core::Shape shape;
  std::vector<std::byte> bytes;

  /// The bytes as elements of T; no conversion.
  template <class T>
  std::vector<T> as() const {
    std::vector<T> values(bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
    return values;
  }
};

inline std::map<std::string, LiteTensor> read_safetensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::uint64_t header_bytes = 0;
  file.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes);
  std::string header(header_bytes, ' ');
  file.read(header.data(), static_cast<std::streamsize>(header.size()));
  if (!file) throw std::runtime_error("cannot read " + path);
  std::map<std::string, LiteTensor> tensors;
  const core::Json json = core::parse_json(header, path);
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    LiteTensor tensor;
    tensor.dtype = entry.at("dtype").get<std::string>();
    tensor.shape = entry.at("shape").get<core::Shape>();
    const auto offsets = entry.at("data_offsets").get<std::pair<std::uint64_t, std::uint64_t>>();
    tensor.bytes.resize(offsets.second - offsets.first);
    file.seekg(static_cast<std::streamoff>(sizeof header_bytes + header_bytes + offsets.first));
    file.read(reinterpret_cast<char*>(tensor.bytes.data()), static_cast<std::streamsize>(tensor.bytes.size()));
    if (!file) throw std::runtime_error("cannot read " + name + " of " + path);
    tensors.emplace(name, std::move(tensor));
  }
  return tensors;
}

}  // namespace voronoi::test
