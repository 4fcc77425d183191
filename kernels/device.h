// Device memory. Family of entry points: see kernels/kernels.h.
#pragma once

#include <cstdint>

#include "kernels/exec.h"

namespace voronoi::kernels {

struct DeviceKernels {
  /// size_bytes > 0, 64-byte aligned; throws DeviceError naming the size when memory is short.
  void* (*allocate)(std::int64_t size_bytes);
  /// Never throws; null is allowed.
  void (*release)(void* address) noexcept;
  void (*copy_from_host)(const Exec&, const void* host, std::int64_t size_bytes, void* device);
  void (*copy_to_host)(const Exec&, const void* device, std::int64_t size_bytes, void* host);
};

}  // namespace voronoi::kernels
