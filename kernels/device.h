// Device memory and streams. Family of entry points: see kernels/kernels.h.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/exec.h"

namespace voronoi::kernels {

struct DeviceFacts {
  std::string name;
  int compute_capability = 0;                    ///< 10 * major + minor; 0 on the CPU
  std::int64_t total_bytes = 0, free_bytes = 0;  ///< device memory; 0 where it is not known
  std::string identity;                          ///< of the device among all (UUID); empty on the CPU
};

/// Calls of one Exec come from one thread at a time. Work is queued in order; a copy to the host waits for it.
struct DeviceKernels {
  /// Devices of this kind that can compute; 0 without driver or device.
  int (*count)() noexcept;
  /// Stream, library handles, workspace and memory pool of device `ordinal`: the Exec's `native`. Throws DeviceError.
  void* (*open)(int ordinal);
  void (*close)(void* native) noexcept;
  DeviceFacts (*facts)(const Exec&);

  /// size_bytes > 0, 256-byte aligned on a GPU, 64 on the CPU; memory that was released is handed out again in stream
  /// order. Throws DeviceError naming the size asked for and what is free.
  void* (*allocate)(const Exec&, std::int64_t size_bytes);
  /// Never throws; null is allowed. Uploads to the memory have been joined.
  void (*release)(const Exec&, void* address) noexcept;
  /// When it returns, `host` may be changed.
  void (*copy_from_host)(const Exec&, const void* host, std::int64_t size_bytes, void* device);
  /// When it returns, `host` is filled.
  void (*copy_to_host)(const Exec&, const void* device, std::int64_t size_bytes, void* host);
  void (*copy_on_device)(const Exec&, const void* from, std::int64_t size_bytes, void* to);
  void (*zero)(const Exec&, std::int64_t size_bytes, void* device);
  /// Copies beside the compute stream, through pinned staging, once the work queued so far is done; `host` may be
  /// changed when it returns. Work queued after uploads_join() sees all uploads.
  void (*upload)(const Exec&, const void* host, std::int64_t size_bytes, void* device);
  void (*uploads_join)(const Exec&);
  /// Waits for all queued work; throws DeviceError when any of it failed.
  void (*synchronize)(const Exec&);
};

}  // namespace voronoi::kernels
