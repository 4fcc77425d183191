// Arrays of an encoding in the memory of a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/tensor.h"

namespace voronoi::format {

/// Where kernels of the host read an array; null of an empty one.
constexpr auto in_place = [](const auto& values) { return values.empty() ? nullptr : values.data(); };

class DeviceArrays {
 public:
  /// A copy of host values that lives as long as this; null of none.
  template <class T>
  const T* add(backend::Context& context, std::span<const T> values) {
    if (values.empty()) return nullptr;
    backend::Array<std::byte> copy(context, std::as_bytes(values));
    const auto* address = reinterpret_cast<const T*>(copy.data());
    size_bytes_ += copy.size();
    arrays_.push_back(std::move(copy));
    return address;
  }
  std::int64_t size_bytes() const { return size_bytes_; }

 private:
  std::vector<backend::Array<std::byte>> arrays_;
  std::int64_t size_bytes_ = 0;
};

}  // namespace voronoi::format
