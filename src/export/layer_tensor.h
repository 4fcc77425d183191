// Tensors on their way into a checkpoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/types.h"

namespace voronoi::exporting {

/// What a tensor will be, before there is data.
struct TensorPlan {
  std::string name;
  std::string dtype;  ///< as safetensors spells it: "I32", "BF16", "F8_E4M3"
  core::Shape shape;
  std::int64_t size_bytes = 0;
};

/// A tensor of a quantized linear.
struct LayerTensor {
  std::string name;   ///< whole
  std::string dtype;  ///< as safetensors spells it
  core::Shape shape;
  std::span<const std::byte> bytes;  ///< of the encoding, which must outlive it, or of `made`
  std::vector<std::byte> made;

  LayerTensor(std::string tensor_name, std::string_view type, core::Shape extents, std::span<const std::byte> data)
      : name(std::move(tensor_name)), dtype(type), shape(std::move(extents)), bytes(data) {}
  LayerTensor(std::string tensor_name, std::string_view type, core::Shape extents, std::vector<std::byte> data)
      : name(std::move(tensor_name)), dtype(type), shape(std::move(extents)), made(std::move(data)) {
    bytes = made;
  }
  LayerTensor(const LayerTensor&) = delete;  // `bytes` would be another's
  LayerTensor& operator=(const LayerTensor&) = delete;
  LayerTensor(LayerTensor&&) = default;
  LayerTensor& operator=(LayerTensor&&) = default;
};

}  // namespace voronoi::exporting
