// What is open on a GPU: the `native` of an Exec whose context computes there. Host side of every CUDA twin.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "core/types.h"
#include "kernels/exec.h"

namespace voronoi::kernels::gpu {

class Blas;     // kernels/cuda/blas.h
class Uploads;  // kernels/cuda/uploads.h

struct Native {
  int ordinal = 0;
  int compute_capability = 0;  ///< 10 * major + minor
  int n_multiprocessors = 0;
  std::int64_t shared_bytes_a_block = 0;  ///< most dynamic shared memory a block may ask for
  cudaStream_t stream = nullptr;          ///< all compute
  cudaMemPool_t pool = nullptr;
  std::unique_ptr<Blas> blas;
  std::unique_ptr<Uploads> uploads;

  Native() = default;
  ~Native();
  Native(const Native&) = delete;
  Native& operator=(const Native&) = delete;
};

/// The open GPU of an Exec, made current for the calling thread: every entry point starts with it.
Native& native(const Exec& exec);

/// Throws DeviceError that names the call and the place.
void check(cudaError_t status, const char* call, const char* file, int line);
#define VORONOI_CUDA_CHECK(call) ::voronoi::kernels::gpu::check((call), #call, __FILE__, __LINE__)

/// Memory in stream order: the pool hands it out again to later work of the stream as soon as it is released. Throws
/// DeviceError naming what was asked for and what is free.
void* pool_allocate(Native& native, std::int64_t size_bytes);
void pool_release(Native& native, void* address) noexcept;

/// n values of scratch memory for the work queued while it lives; n may be 0.
template <class T>
class Scratch {
 public:
  Scratch(Native& native, std::int64_t n) : native_(native) {
    const auto size_bytes = core::checked_multiply(n, static_cast<std::int64_t>(sizeof(T)));
    VORONOI_REQUIRE(size_bytes.has_value(), "scratch size overflows");
    if (n > 0) data_ = static_cast<T*>(pool_allocate(native, *size_bytes));
  }
  ~Scratch() {
    if (data_ != nullptr) pool_release(native_, data_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() const { return data_; }

 private:
  Native& native_;
  T* data_ = nullptr;
};

/// Host values to scratch memory and back; the second waits.
void copy_in(Native& native, const void* host, std::int64_t size_bytes, void* device);
void copy_out(Native& native, const void* device, std::int64_t size_bytes, void* host);

/// Checked: x up to 2^31 - 1, y and z up to 65535. An extent of 0 makes launch() do nothing.
dim3 grid_of(std::int64_t x, std::int64_t y = 1, std::int64_t z = 1);
/// Blocks for n threads' work, at most as many as keep the GPU busy: for loops that stride by global_threads().
dim3 grid_for(const Native& native, std::int64_t n, int block);

/// Checks the extents; false: nothing to do. Raises the kernel's limit of dynamic shared memory.
bool prepare_launch(Native& native, const void* kernel, dim3 grid, dim3 block, std::int64_t dynamic_shared_bytes);
/// Throws DeviceError that names the kernel when a launch was refused or an earlier one failed.
void check_launch(cudaError_t status, const void* kernel);

/// Queues kernel<<<grid, block>>>(arguments...) on the compute stream. Arguments convert to the kernel's parameters.
template <class... Parameters, class... Arguments>
void launch(Native& native, void (*kernel)(Parameters...), dim3 grid, dim3 block, std::int64_t dynamic_shared_bytes,
            Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments));
  const auto* address = reinterpret_cast<const void*>(kernel);
  if (!prepare_launch(native, address, grid, block, dynamic_shared_bytes)) return;
  std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  std::apply(
      [&](auto&... value) {
        void* addresses[] = {const_cast<void*>(static_cast<const void*>(&value))...};
        check_launch(cudaLaunchKernel(kernel, grid, block, addresses, static_cast<std::size_t>(dynamic_shared_bytes),
                                      native.stream),
                     address);
      },
      values);
}

}  // namespace voronoi::kernels::gpu
