#include "export/stored_tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"

namespace voronoi::exporting {

using core::FormatError;

const model::SafetensorsFolder::Stored& stored_tensor(const model::SafetensorsFolder& folder, const std::string& name,
                                                      std::span<const std::string_view> dtypes,
                                                      const core::Shape& shape) {
  const auto* stored = folder.find(name);
  if (stored == nullptr) throw FormatError(folder.name(), "tensor " + name + ": is missing");
  if (std::find(dtypes.begin(), dtypes.end(), stored->tensor->dtype_name) == dtypes.end())
    throw FormatError(stored->file->path(), fmt::format("tensor {}: is stored as {}; {} is wanted", name,
                                                        stored->tensor->dtype_name, fmt::join(dtypes, " or ")));
  if (stored->tensor->shape != shape)
    throw FormatError(stored->file->path(),
                      fmt::format("tensor {}: has shape {}; {} is wanted", name, core::to_string(stored->tensor->shape),
                                  core::to_string(shape)));
  return *stored;
}

}  // namespace voronoi::exporting
