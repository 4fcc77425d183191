// The type of the operands of the forward pass: --dtype.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "backend/device.h"
#include "core/types.h"
#include "model/config.h"

namespace voronoi::model {

/// Choices of --dtype, and what one means: the type of the products of linears, head and attention. "auto": f32 on the
/// CPU, the model's own 16-bit type on a GPU.
const std::vector<std::string>& dtype_choices();
core::DType product_dtype(const std::string& choice, const backend::Context& context, const ModelConfig& config);
/// "float32", "float16" or "bfloat16": as results name it.
std::string_view product_dtype_name(core::DType dtype);

}  // namespace voronoi::model
