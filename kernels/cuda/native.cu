#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/native.h"
#include "kernels/cuda/uploads.h"

namespace voronoi::kernels::gpu {
namespace {

std::string mebibytes(std::size_t bytes) { return std::to_string((bytes + (1U << 20U) - 1) >> 20U) + " MiB"; }

std::string kernel_name(const void* kernel) {
  const char* name = nullptr;
  if (cudaFuncGetName(&name, kernel) != cudaSuccess || name == nullptr) return "a kernel";
  int status = 0;
  char* readable = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  std::string result = readable != nullptr ? readable : name;
  std::free(readable);
  return result;
}

}  // namespace

Native::~Native() {
  // In this order: libraries and uploads may still use the stream.
  cudaSetDevice(ordinal);
  blas.reset();
  uploads.reset();
  if (stream != nullptr) cudaStreamDestroy(stream);
  if (pool != nullptr) cudaMemPoolDestroy(pool);
}

Native& native(const Exec& exec) {
  VORONOI_REQUIRE(exec.native != nullptr, "a CUDA kernel was called without a GPU's context");
  auto& open = *static_cast<Native*>(exec.native);
  VORONOI_CUDA_CHECK(cudaSetDevice(open.ordinal));
  return open;
}

void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // said here: the next launch is not to report it again
  throw core::DeviceError(std::string(call) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) +
                          "; " + file + ":" + std::to_string(line) + ")");
}

void* pool_allocate(Native& native, std::int64_t size_bytes) {
  VORONOI_REQUIRE(size_bytes > 0, "an allocation needs a size");
  const auto size = static_cast<std::size_t>(size_bytes);
  void* address = nullptr;
  cudaError_t status = cudaMallocFromPoolAsync(&address, size, native.pool, native.stream);
  if (status == cudaErrorMemoryAllocation) {
    // Work under way may still hold memory that is released in stream order, and the pool may cache unfit pieces.
    cudaGetLastError();
    VORONOI_CUDA_CHECK(cudaStreamSynchronize(native.stream));
    VORONOI_CUDA_CHECK(cudaMemPoolTrimTo(native.pool, 0));
    status = cudaMallocFromPoolAsync(&address, size, native.pool, native.stream);
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free_bytes = 0, total_bytes = 0;
    std::uint64_t used_bytes = 0;
    VORONOI_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
    VORONOI_CUDA_CHECK(cudaMemPoolGetAttribute(native.pool, cudaMemPoolAttrUsedMemCurrent, &used_bytes));
    throw core::DeviceError("out of GPU memory: asked for " + mebibytes(size) + " where " + mebibytes(free_bytes) +
                            " of " + mebibytes(total_bytes) + " are free (" + mebibytes(used_bytes) +
                            " held by this process's arrays); use a GPU with more memory, fewer tokens at a time, or "
                            "--device cpu");
  }
  VORONOI_CUDA_CHECK(status);
  return address;
}

void pool_release(Native& native, void* address) noexcept {
  // A failure here is a sticky one of earlier work: the next checked call reports it.
  cudaSetDevice(native.ordinal);
  cudaFreeAsync(address, native.stream);
}

void copy_in(Native& native, const void* host, std::int64_t size_bytes, void* device) {
  if (size_bytes == 0) return;
  // From pageable memory: the call returns when the source has been read.
  VORONOI_CUDA_CHECK(
      cudaMemcpyAsync(device, host, static_cast<std::size_t>(size_bytes), cudaMemcpyHostToDevice, native.stream));
  VORONOI_CUDA_CHECK(cudaStreamSynchronize(native.stream));
}

void copy_out(Native& native, const void* device, std::int64_t size_bytes, void* host) {
  if (size_bytes == 0) return;
  VORONOI_CUDA_CHECK(
      cudaMemcpyAsync(host, device, static_cast<std::size_t>(size_bytes), cudaMemcpyDeviceToHost, native.stream));
  VORONOI_CUDA_CHECK(cudaStreamSynchronize(native.stream));
}

dim3 grid_of(std::int64_t x, std::int64_t y, std::int64_t z) {
  constexpr std::int64_t kMostX = 2147483647, kMostOther = 65535;
  VORONOI_REQUIRE(x >= 0 && x <= kMostX && y >= 0 && y <= kMostOther && z >= 0 && z <= kMostOther,
                  "a grid of " + std::to_string(x) + " x " + std::to_string(y) + " x " + std::to_string(z) + " blocks");
  return {static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)};
}

dim3 grid_for(const Native& native, std::int64_t n, int block) {
  const std::int64_t most = std::int64_t{native.n_multiprocessors} * std::max(1, 2048 / block);
  return grid_of(std::min(most, core::ceil_div(n, block)));
}

bool prepare_launch(Native& native, const void* kernel, dim3 grid, dim3 block, std::int64_t dynamic_shared_bytes) {
  constexpr std::int64_t kAlwaysAllowed = 48 << 10;
  VORONOI_REQUIRE(block.x * block.y * block.z >= 1 && block.x * block.y * block.z <= 1024, "threads of a block");
  VORONOI_REQUIRE(dynamic_shared_bytes >= 0 && dynamic_shared_bytes <= native.shared_bytes_a_block,
                  std::to_string(dynamic_shared_bytes) + " bytes of shared memory; a block may have " +
                      std::to_string(native.shared_bytes_a_block));
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return false;
  if (dynamic_shared_bytes > kAlwaysAllowed)
    check_launch(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(dynamic_shared_bytes)),
                 kernel);
  return true;
}

void check_launch(cudaError_t status, const void* kernel) {
  const cudaError_t last = cudaGetLastError();
  if (status == cudaSuccess) status = last;
  if (status == cudaSuccess) return;
  throw core::DeviceError("launch of " + kernel_name(kernel) + ": " + cudaGetErrorString(status) + " (" +
                          cudaGetErrorName(status) + ")");
}

}  // namespace voronoi::kernels::gpu
