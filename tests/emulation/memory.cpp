#include "tests/emulation/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/emulation/emulator.h"

struct EmulatedStream {
  std::vector<std::function<void()>> pending;
};
struct EmulatedEvent {
  EmulatedStream* stream = nullptr;
};
struct EmulatedPool {};

namespace voronoi::emulation {
namespace {

constexpr std::size_t kAlign = 256, kRedZone = 256;
constexpr int kRedByte = 0xFF, kFreshByte = 0xFF;  // both read as NaN

struct Arena {
  std::byte* base = nullptr;
  std::map<std::byte*, std::size_t> arrays;  // address -> bytes
  std::size_t used_bytes = 0;
  int windows = 0;
  std::recursive_mutex mutex;
};
Arena arena;

bool in_arena(const void* address) {
  const auto* byte = static_cast<const std::byte*>(address);
  return arena.base != nullptr && byte >= arena.base && byte < arena.base + kDeviceBytes;
}

void explain_fault(int, siginfo_t* info, void*) {
  if (in_arena(info->si_addr)) {
    constexpr char kText[] = "emulated GPU: host code touches device memory, or device code runs outside of a launch\n";
    [[maybe_unused]] const auto written = ::write(2, kText, sizeof kText - 1);
  }
  // The instruction runs again and ends the process.
  ::signal(SIGSEGV, SIG_DFL);
}

void open_arena() {
  if (arena.base != nullptr) return;
  void* memory = ::mmap(nullptr, kDeviceBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  arena.base = static_cast<std::byte*>(memory);
  struct sigaction action {};
  action.sa_sigaction = explain_fault;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGSEGV, &action, nullptr);
}

std::size_t padded(std::size_t size) { return (size + kRedZone + kAlign - 1) / kAlign * kAlign; }

bool is_red(const std::byte* from, const std::byte* to) {
  return std::all_of(from, to, [](std::byte value) { return value == std::byte{kRedByte}; });
}

void check_array(const std::byte* address, std::size_t size) {
  if (!is_red(address + size, address + padded(size)))
    throw std::logic_error("emulated GPU: bytes behind an array of " + std::to_string(size) + " bytes were written");
}

}  // namespace

AccessWindow::AccessWindow() {
  const std::lock_guard lock(arena.mutex);
  open_arena();
  if (arena.windows++ == 0) ::mprotect(arena.base, kDeviceBytes, PROT_READ | PROT_WRITE);
}

AccessWindow::~AccessWindow() {
  const std::lock_guard lock(arena.mutex);
  if (--arena.windows == 0) ::mprotect(arena.base, kDeviceBytes, PROT_NONE);
}

void check_arrays() {
  const std::lock_guard lock(arena.mutex);
  for (const auto& [address, size] : arena.arrays) check_array(address, size);
}

void finish_pending(cudaStream_t stream) {
  const AccessWindow window;
  const auto pending = std::exchange(stream->pending, {});
  for (const auto& work : pending) work();
}

GuardedBuffer::~GuardedBuffer() {
  if (pages_ != nullptr) ::munmap(pages_, capacity_);
}

void GuardedBuffer::resize(std::size_t size_bytes) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  // 128-byte aligned at both ends: what lies past an odd size is red as well, and checked.
  const std::size_t size = (size_bytes + 127) / 128 * 128, body = (size + kRedZone + page - 1) / page * page;
  if (body + page > capacity_) {
    if (pages_ != nullptr) ::munmap(pages_, capacity_);
    capacity_ = body + page;
    void* memory = ::mmap(nullptr, capacity_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    pages_ = static_cast<std::byte*>(memory);
    ::mprotect(pages_ + body, page, PROT_NONE);
  }
  data_ = pages_ + (capacity_ - page) - size;
  std::memset(data_ - kRedZone, kRedByte, size + kRedZone);
}

void GuardedBuffer::check() const {
  if (!is_red(data_ - kRedZone, data_)) throw std::logic_error("bytes before the shared memory were written");
}

}  // namespace voronoi::emulation

using namespace voronoi::emulation;

cudaError_t cudaMallocFromPoolAsync(void** address, std::size_t size, cudaMemPool_t, cudaStream_t) {
  const AccessWindow window;
  const std::lock_guard lock(arena.mutex);
  // First fit between the arrays there are; each has a red zone behind it, which is before the next.
  std::byte* place = arena.base + kRedZone;
  for (const auto& [other, other_size] : arena.arrays) {
    if (place + padded(size) <= other) break;
    place = other + padded(other_size);
  }
  if (size > kDeviceBytes || place + padded(size) > arena.base + kDeviceBytes) return cudaErrorMemoryAllocation;
  std::memset(place - kRedZone, kRedByte, kRedZone);
  std::memset(place, kFreshByte, padded(size));
  arena.arrays[place] = size;
  arena.used_bytes += padded(size);
  *address = place;
  return cudaSuccess;
}

cudaError_t cudaFreeAsync(void* address, cudaStream_t stream) {
  finish_pending(stream);
  const AccessWindow window;
  const std::lock_guard lock(arena.mutex);
  const auto array = arena.arrays.find(static_cast<std::byte*>(address));
  if (array == arena.arrays.end()) return cudaErrorInvalidValue;
  // Written after its release reads as NaN, and so does what is read then.
  std::memset(array->first, kFreshByte, array->second);
  arena.used_bytes -= padded(array->second);
  arena.arrays.erase(array);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  *total_bytes = kDeviceBytes;
  *free_bytes = kDeviceBytes - arena.used_bytes;
  return cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
  *pool = new EmulatedPool;
  return cudaSuccess;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  delete pool;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
  const std::uint64_t used = arena.used_bytes;
  std::memcpy(value, &used, sizeof used);
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, std::size_t) { return cudaSuccess; }
cudaError_t cudaMallocHost(void** address, std::size_t size) {
  *address = ::operator new(size);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* address) {
  ::operator delete(address);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  finish_pending(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  finish_pending(stream);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new EmulatedEvent;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->stream = stream;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->stream != nullptr) finish_pending(event->stream);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) { return cudaEventSynchronize(event); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
  const bool to_device = kind != cudaMemcpyDeviceToHost, from_device = kind != cudaMemcpyHostToDevice;
  if (in_arena(to) != to_device || in_arena(from) != from_device) return cudaErrorInvalidValue;
  stream->pending.emplace_back([=] { std::memcpy(to, from, size); });
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t size, cudaStream_t stream) {
  if (!in_arena(to)) return cudaErrorInvalidValue;
  stream->pending.emplace_back([=] { std::memset(to, value, size); });
  return cudaSuccess;
}
