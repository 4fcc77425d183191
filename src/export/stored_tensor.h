// A tensor of a checkpoint that counts as hostile, as its reader wants it.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "core/types.h"
#include "model/safetensors_folder.h"

namespace voronoi::exporting {

/// A stored tensor of one of the given types and of the given shape. Throws FormatError naming file and tensor.
const model::SafetensorsFolder::Stored& stored_tensor(const model::SafetensorsFolder& folder, const std::string& name,
                                                      std::span<const std::string_view> dtypes,
                                                      const core::Shape& shape);

}  // namespace voronoi::exporting
