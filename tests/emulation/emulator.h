// Runs device code on the CPU, so that every kernel's indexing, masks, barriers and reductions are tested where no GPU
// is. Blocks run one after another; the threads of a block are fibers that switch at barriers and warp operations
// only. Odd launches run blocks and threads in reverse order, so that what depends on an order without a barrier shows.
//
// What it finds, with the kernel, block and thread named: threads that wait for each other for ever; warp operations
// that meet different ones, or read from a lane that is absent; asynchronous copies nobody waited for; writes beside an
// array or beside shared memory; host code that touches device memory (it is only accessible while work runs). Memory
// that was never written reads as NaN. What it cannot find: races between warps that both orders happen to hide,
// reads beside an array that stay unused, anything about speed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace voronoi::emulation {

[[noreturn]] void fail(const std::string& what);

void block_barrier();

enum class WarpOperation { sync, shuffle, ballot, mma, ldmatrix };

/// What each lane of the warp brought to an operation; null for an absent lane. Valid until this lane's next operation.
struct WarpValues {
  const std::byte* lane[32];
};
/// Waits for all lanes of the warp that have not returned. size_bytes <= 48.
WarpValues warp_exchange(WarpOperation operation, const void* value, std::size_t size_bytes);
int current_lane();

void* dynamic_shared_memory();
/// Fails unless [address, address + size_bytes) lies in device memory (an array's or the block's shared memory) that
/// is aligned so.
void async_copy(void* shared, const void* global, std::size_t size_bytes, bool valid);
void async_commit();
void async_wait(int groups_under_way);

/// Device memory is accessible while one lives.
class AccessWindow {
 public:
  AccessWindow();
  ~AccessWindow();
  AccessWindow(const AccessWindow&) = delete;
  AccessWindow& operator=(const AccessWindow&) = delete;
};

}  // namespace voronoi::emulation
