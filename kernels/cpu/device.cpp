#include <cstdlib>
#include <cstring>
#include <string>

#include "core/error.h"
#include "kernels/cpu/large_blocks.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

// The address sanitizer sees what goes beyond a block of the heap, not of pages.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kInPages = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool kInPages = false;
#else
constexpr bool kInPages = true;
#endif
#else
constexpr bool kInPages = true;
#endif

void* allocate(const Exec&, std::int64_t size_bytes) {
  const auto rounded = (static_cast<std::size_t>(size_bytes) + 63U) & ~std::size_t{63};
  void* address = kInPages && rounded >= LargeBlocks::kSmallest ? LargeBlocks::of_process().allocate(rounded)
                                                                : std::aligned_alloc(64, rounded);
  if (address == nullptr)
    throw core::DeviceError("out of memory: " + std::to_string(size_bytes) + " bytes were asked for");
  return address;
}

void release(const Exec&, void* address) noexcept {
  if (!kInPages || !LargeBlocks::of_process().release(address)) std::free(address);
}

void copy(const Exec&, const void* from, std::int64_t size_bytes, void* to) {
  std::memcpy(to, from, static_cast<std::size_t>(size_bytes));
}

void zero(const Exec&, std::int64_t size_bytes, void* device) {
  std::memset(device, 0, static_cast<std::size_t>(size_bytes));
}

}  // namespace

DeviceKernels cpu_device_kernels() {
  return {.count = []() noexcept { return 1; },
          .open = [](int) -> void* { return nullptr; },
          .close = [](void*) noexcept {},
          .facts =
              [](const Exec&) {
                return DeviceFacts{"cpu", 0, 0, 0, {}};
              },
          .allocate = allocate,
          .release = release,
          .copy_from_host = copy,
          .copy_to_host = copy,
          .copy_on_device = copy,
          .zero = zero,
          .upload = copy,
          .uploads_join = [](const Exec&) {},
          .synchronize = [](const Exec&) {}};
}

}  // namespace voronoi::kernels
