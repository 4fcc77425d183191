#include <cstdlib>
#include <cstring>
#include <string>

#include "core/error.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

void* allocate(std::int64_t size_bytes) {
  const auto rounded = (static_cast<std::size_t>(size_bytes) + 63U) & ~std::size_t{63};
  void* address = std::aligned_alloc(64, rounded);
  if (address == nullptr)
    throw core::DeviceError("out of memory: " + std::to_string(size_bytes) + " bytes were asked for");
  return address;
}

void release(void* address) noexcept { std::free(address); }

void copy_from_host(const Exec&, const void* host, std::int64_t size_bytes, void* device) {
  std::memcpy(device, host, static_cast<std::size_t>(size_bytes));
}

void copy_to_host(const Exec&, const void* device, std::int64_t size_bytes, void* host) {
  std::memcpy(host, device, static_cast<std::size_t>(size_bytes));
}

}  // namespace

DeviceKernels cpu_device_kernels() { return {allocate, release, copy_from_host, copy_to_host}; }

}  // namespace voronoi::kernels
