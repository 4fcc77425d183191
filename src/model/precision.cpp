#include "model/precision.h"

#include "model/transformer.h"

namespace voronoi::model {

const std::vector<std::string>& dtype_choices() {
  static const std::vector<std::string> choices{"auto", "f32", "f16", "bf16"};
  return choices;
}

core::DType product_dtype(const std::string& choice, const backend::Context& context, const ModelConfig& config) {
  if (choice == "f32") return core::DType::f32;
  if (choice == "f16") return core::DType::f16;
  if (choice == "bf16") return core::DType::bf16;
  return default_dtype(context, config);
}

std::string_view product_dtype_name(core::DType dtype) {
  return dtype == core::DType::f32 ? "float32" : dtype == core::DType::f16 ? "float16" : "bfloat16";
}

}  // namespace voronoi::model
