// Contexts, memory and copies of a GPU. Freed memory stays in the device's pool (no release threshold), so a step's
// arrays cost microseconds from the second time on.
#include <cstring>
#include <limits>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/families.h"
#include "kernels/cuda/native.h"
#include "kernels/cuda/uploads.h"

namespace voronoi::kernels {
namespace {

constexpr int kLeastCapability = 80;  // bf16, tf32 and cp.async

int attribute(cudaDeviceAttr which, int ordinal) {
  int value = 0;
  VORONOI_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, ordinal));
  return value;
}

std::string hexadecimal(const cudaUUID_t& uuid) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  for (const char byte : uuid.bytes) {
    const auto value = static_cast<unsigned char>(byte);
    text += kDigits[value / 16];
    text += kDigits[value % 16];
  }
  return text;
}

int count() noexcept {
  int n = 0;
  if (cudaGetDeviceCount(&n) == cudaSuccess) return n;
  cudaGetLastError();
  return 0;
}

void* open(int ordinal) {
  VORONOI_CUDA_CHECK(cudaSetDevice(ordinal));
  auto native = std::make_unique<gpu::Native>();
  native->ordinal = ordinal;
  native->compute_capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor, ordinal) +
                               attribute(cudaDevAttrComputeCapabilityMinor, ordinal);
  if (native->compute_capability < kLeastCapability)
    throw core::DeviceError("GPU " + std::to_string(ordinal) + " has compute capability " +
                            std::to_string(native->compute_capability / 10) + "." +
                            std::to_string(native->compute_capability % 10) + "; 8.0 is needed");
  if (attribute(cudaDevAttrMemoryPoolsSupported, ordinal) == 0)
    throw core::DeviceError("GPU " + std::to_string(ordinal) +
                            " has no memory pools (its driver or its virtualization does not "
                            "offer them)");
  native->n_multiprocessors = attribute(cudaDevAttrMultiProcessorCount, ordinal);
  native->shared_bytes_a_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal);
  VORONOI_CUDA_CHECK(cudaStreamCreateWithFlags(&native->stream, cudaStreamNonBlocking));

  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = ordinal;
  VORONOI_CUDA_CHECK(cudaMemPoolCreate(&native->pool, &properties));
  std::uint64_t keep_bytes = std::numeric_limits<std::uint64_t>::max();
  VORONOI_CUDA_CHECK(cudaMemPoolSetAttribute(native->pool, cudaMemPoolAttrReleaseThreshold, &keep_bytes));

  native->uploads = std::make_unique<gpu::Uploads>(native->stream);
  native->blas = std::make_unique<gpu::Blas>(*native);
  return native.release();
}

void close(void* native) noexcept { delete static_cast<gpu::Native*>(native); }

DeviceFacts facts(const Exec& exec) {
  const gpu::Native& native = gpu::native(exec);
  cudaDeviceProp properties{};
  VORONOI_CUDA_CHECK(cudaGetDeviceProperties(&properties, native.ordinal));
  std::size_t free_bytes = 0, total_bytes = 0;
  std::uint64_t reserved_bytes = 0, used_bytes = 0;
  VORONOI_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  VORONOI_CUDA_CHECK(cudaMemPoolGetAttribute(native.pool, cudaMemPoolAttrReservedMemCurrent, &reserved_bytes));
  VORONOI_CUDA_CHECK(cudaMemPoolGetAttribute(native.pool, cudaMemPoolAttrUsedMemCurrent, &used_bytes));
  return {properties.name, native.compute_capability, static_cast<std::int64_t>(total_bytes),
          static_cast<std::int64_t>(free_bytes + (reserved_bytes - used_bytes)), hexadecimal(properties.uuid)};
}

void* allocate(const Exec& exec, std::int64_t size_bytes) { return gpu::pool_allocate(gpu::native(exec), size_bytes); }

void release(const Exec& exec, void* address) noexcept {
  if (address != nullptr) gpu::pool_release(*static_cast<gpu::Native*>(exec.native), address);
}

void copy_from_host(const Exec& exec, const void* host, std::int64_t size_bytes, void* device) {
  gpu::copy_in(gpu::native(exec), host, size_bytes, device);
}

void copy_to_host(const Exec& exec, const void* device, std::int64_t size_bytes, void* host) {
  gpu::copy_out(gpu::native(exec), device, size_bytes, host);
}

void copy_on_device(const Exec& exec, const void* from, std::int64_t size_bytes, void* to) {
  VORONOI_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<std::size_t>(size_bytes), cudaMemcpyDeviceToDevice,
                                     gpu::native(exec).stream));
}

void zero(const Exec& exec, std::int64_t size_bytes, void* device) {
  VORONOI_CUDA_CHECK(cudaMemsetAsync(device, 0, static_cast<std::size_t>(size_bytes), gpu::native(exec).stream));
}

void upload(const Exec& exec, const void* host, std::int64_t size_bytes, void* device) {
  gpu::native(exec).uploads->upload(host, size_bytes, device);
}

void uploads_join(const Exec& exec) { gpu::native(exec).uploads->join(); }

void synchronize(const Exec& exec) {
  const gpu::Native& native = gpu::native(exec);
  VORONOI_CUDA_CHECK(cudaStreamSynchronize(native.uploads->stream()));
  VORONOI_CUDA_CHECK(cudaStreamSynchronize(native.stream));
}

}  // namespace

DeviceKernels cuda_device_kernels() {
  return {.count = count,
          .open = open,
          .close = close,
          .facts = facts,
          .allocate = allocate,
          .release = release,
          .copy_from_host = copy_from_host,
          .copy_to_host = copy_to_host,
          .copy_on_device = copy_on_device,
          .zero = zero,
          .upload = upload,
          .uploads_join = uploads_join,
          .synchronize = synchronize};
}

}  // namespace voronoi::kernels
