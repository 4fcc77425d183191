// A tensor of a checkpoint that counts as hostile, as its reader wants it.
#pragma once

#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/types.h"
#include "model/safetensors_folder.h"

namespace voronoi::exporting {

/// A stored tensor of one of the given types and of the given shape. Throws FormatError naming file and tensor.
const model::SafetensorsFolder::Stored& stored_tensor(const model::SafetensorsFolder& folder, const std::string& name,
                                                      std::span<const std::string_view> dtypes,
                                                      const core::Shape& shape);

/// Its elements, of the size of T.
template <class T>
std::vector<T> elements(const model::SafetensorsFolder::Stored& stored) {
  std::vector<T> values(stored.tensor->bytes.size() / sizeof(T));
  std::memcpy(values.data(), stored.tensor->bytes.data(), values.size() * sizeof(T));
  return values;
}

}  // namespace voronoi::exporting
