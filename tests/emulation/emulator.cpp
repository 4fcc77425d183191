#include "tests/emulation/emulator.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tests/emulation/fiber.h"
#include "tests/emulation/memory.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace voronoi::emulation {
namespace {

constexpr unsigned kWarp = 32;
constexpr std::size_t kMostPayload = 48;

struct Copy {
  void* to;
  std::array<std::byte, 16> bytes;
  std::size_t size;
};

enum class State { ready, at_barrier, at_warp, done };

struct Thread {
  Fiber fiber;
  uint3 index{};
  unsigned warp = 0, lane = 0;
  State state = State::ready;
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> open_group;
};

struct Warp {
  unsigned alive = 0, arrived = 0, round = 0;
  WarpOperation operation{};
  struct Slot {
    bool present = false;
    alignas(16) std::array<std::byte, kMostPayload> bytes;
  };
  // Two rounds: a lane can be one operation ahead of a lane that still reads.
  std::array<std::array<Slot, kWarp>, 2> slots;
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  unsigned alive = 0, at_barrier = 0;
  Thread* current = nullptr;
  const std::function<void()>* body = nullptr;
  std::exception_ptr error;
};

Block block;
GuardedBuffer shared_memory;
unsigned n_launches = 0;
std::mutex one_launch;

std::string name_of(const uint3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

void release_warp(Warp& warp, unsigned number) {
  warp.arrived = 0;
  const std::size_t first = std::size_t{number} * kWarp, end = std::min(block.threads.size(), first + kWarp);
  for (std::size_t at = first; at < end; ++at)
    if (block.threads[at].state == State::at_warp) block.threads[at].state = State::ready;
  // All have read what the round before brought: its slots are the next round's.
  ++warp.round;
  for (Warp::Slot& slot : warp.slots[warp.round % 2]) slot.present = false;
}

void release_barrier() {
  block.at_barrier = 0;
  for (Thread& thread : block.threads)
    if (thread.state == State::at_barrier) thread.state = State::ready;
}

/// Until the scheduler finds the thread ready again, which it is at once when it was the last to arrive.
void wait_for_others(Thread& thread) {
  if (thread.state != State::ready) thread.fiber.suspend();
}

void finish(Thread& thread) {
  thread.state = State::done;
  Warp& warp = block.warps[thread.warp];
  --warp.alive;
  --block.alive;
  if (warp.arrived > 0 && warp.arrived == warp.alive) release_warp(warp, thread.warp);
  if (block.at_barrier > 0 && block.at_barrier == block.alive) release_barrier();
}

void thread_main() {
  Thread& thread = *block.current;
  try {
    (*block.body)();
    if (!thread.groups.empty() || !thread.open_group.empty())
      fail("the thread ends with asynchronous copies that it did not wait for");
    finish(thread);
  } catch (...) {
    block.error = std::current_exception();
  }
}

void resume(Thread& thread) {
  block.current = &thread;
  threadIdx = thread.index;
  thread.fiber.resume(thread_main);
  block.current = nullptr;
}

void describe_deadlock() {
  std::size_t at_warp = 0;
  const Thread* first_barrier = nullptr;
  const Thread* first_warp = nullptr;
  for (const Thread& thread : block.threads) {
    if (thread.state == State::at_barrier && first_barrier == nullptr) first_barrier = &thread;
    if (thread.state == State::at_warp && ++at_warp == 1) first_warp = &thread;
  }
  std::string text =
      "threads wait for each other for ever: " + std::to_string(block.at_barrier) + " of the block at sync_threads()";
  if (first_barrier != nullptr) text += ", the first " + name_of(first_barrier->index);
  text += "; " + std::to_string(at_warp) + " at an operation of their warp";
  if (first_warp != nullptr) text += ", the first " + name_of(first_warp->index);
  throw std::logic_error(text);
}

void run_block(bool reverse) {
  const std::size_t n = block.threads.size();
  while (block.alive > 0) {
    bool moved = false;
    for (std::size_t i = 0; i < n; ++i) {
      Thread& thread = block.threads[reverse ? n - 1 - i : i];
      if (thread.state != State::ready) continue;
      moved = true;
      resume(thread);
      if (block.error) {
        const std::string where = name_of(thread.index);
        try {
          std::rethrow_exception(std::exchange(block.error, nullptr));
        } catch (const std::exception& error) {
          throw std::logic_error("thread " + where + ": " + error.what());
        }
      }
    }
    if (!moved) describe_deadlock();
  }
}

void prepare_block(dim3 size) {
  const std::size_t n = std::size_t{size.x} * size.y * size.z;
  block.threads.resize(n);
  block.warps.assign((n + kWarp - 1) / kWarp, Warp());
  block.alive = static_cast<unsigned>(n);
  block.at_barrier = 0;
  block.error = nullptr;
  for (std::size_t i = 0; i < n; ++i) {
    Thread& thread = block.threads[i];
    const auto at = static_cast<unsigned>(i);
    thread.index = {at % size.x, at / size.x % size.y, at / (size.x * size.y)};
    thread.warp = at / kWarp;
    thread.lane = at % kWarp;
    thread.state = State::ready;
    thread.groups.clear();
    thread.open_group.clear();
    thread.fiber.reset();
    ++block.warps[thread.warp].alive;
  }
}

}  // namespace

void fail(const std::string& what) { throw std::logic_error(what); }

void block_barrier() {
  ++block.at_barrier;
  block.current->state = State::at_barrier;
  if (block.at_barrier == block.alive) release_barrier();
  wait_for_others(*block.current);
}

int current_lane() { return static_cast<int>(block.current->lane); }

WarpValues warp_exchange(WarpOperation operation, const void* value, std::size_t size_bytes) {
  Thread& thread = *block.current;
  Warp& warp = block.warps[thread.warp];
  if (size_bytes > kMostPayload) fail("a warp operation on too large a value");
  if (warp.arrived > 0 && warp.operation != operation)
    fail("lanes of a warp meet at different operations (a branch that some lanes take?)");
  warp.operation = operation;
  const unsigned round = warp.round % 2;
  Warp::Slot& slot = warp.slots[round][thread.lane];
  slot.present = true;
  if (size_bytes > 0) std::memcpy(slot.bytes.data(), value, size_bytes);
  thread.state = State::at_warp;
  if (++warp.arrived == warp.alive) release_warp(warp, thread.warp);
  wait_for_others(thread);
  WarpValues values;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const Warp::Slot& from = warp.slots[round][lane];
    values.lane[lane] = from.present ? from.bytes.data() : nullptr;
  }
  return values;
}

void* dynamic_shared_memory() { return shared_memory.data(); }

void async_copy(void* shared, const void* global, std::size_t size_bytes, bool valid) {
  const auto misaligned = [&](const void* address) { return reinterpret_cast<std::uintptr_t>(address) % size_bytes; };
  if (misaligned(shared) != 0 || (valid && misaligned(global) != 0))
    fail("an asynchronous copy of " + std::to_string(size_bytes) + " bytes between addresses that are not aligned so");
  Copy copy{shared, {}, size_bytes};
  if (valid) std::memcpy(copy.bytes.data(), global, size_bytes);
  block.current->open_group.push_back(copy);
}

void async_commit() {
  Thread& thread = *block.current;
  thread.groups.push_back(std::exchange(thread.open_group, {}));
}

void async_wait(int groups_under_way) {
  std::deque<std::vector<Copy>>& groups = block.current->groups;
  while (groups.size() > static_cast<std::size_t>(groups_under_way)) {
    for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.bytes.data(), copy.size);
    groups.pop_front();
  }
}

void run_grid(const void* kernel, dim3 grid, dim3 size, std::size_t shared_bytes, cudaStream_t stream,
              const std::function<void()>& body) {
  const std::lock_guard lock(one_launch);
  finish_pending(stream);
  const AccessWindow window;
  const bool reverse = n_launches++ % 2 == 1;
  blockDim = size;
  gridDim = grid;
  block.body = &body;
  const std::uint64_t n_blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  for (std::uint64_t i = 0; i < n_blocks; ++i) {
    const std::uint64_t at = reverse ? n_blocks - 1 - i : i;
    blockIdx = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                static_cast<unsigned>(at / (std::uint64_t{grid.x} * grid.y))};
    shared_memory.resize(shared_bytes);
    prepare_block(size);
    try {
      run_block(reverse);
      shared_memory.check();
    } catch (const std::exception& error) {
      const char* name = nullptr;
      cudaFuncGetName(&name, kernel);
      throw std::logic_error("emulated " + std::string(name) + ", block " + name_of(blockIdx) + ": " + error.what());
    }
  }
  check_arrays();
}

}  // namespace voronoi::emulation
