#include "kernels/cpu/large_blocks.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

namespace voronoi::kernels {
namespace {

constexpr std::size_t kPage = 4096;

void* map(std::size_t bytes) {
  void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) return nullptr;
  // A fault every 2 MiB instead of every 4 KiB, where the system has such pages; what is touched does not grow.
  ::madvise(address, bytes, MADV_HUGEPAGE);
  return address;
}

// Kept however little is in use.
constexpr std::size_t kAlwaysKept = std::size_t{8} << 20;

}  // namespace

LargeBlocks& LargeBlocks::of_process() {
  // Never destroyed: arrays of static storage may outlive it.
  static auto* const blocks = new LargeBlocks;
  return *blocks;
}

LargeBlocks::~LargeBlocks() {
  for (const Block& block : kept_) ::munmap(block.address, block.bytes);
  for (const auto& [address, bytes] : used_) ::munmap(address, bytes);
}

void* LargeBlocks::allocate(std::size_t bytes) {
  bytes = (bytes + kPage - 1) / kPage * kPage;
  std::vector<Block> given_back;
  {
    const std::lock_guard lock(mutex_);
    kept_.reserve(kept_.size() + used_.size() + 1);  // release() does not allocate
    auto best = kept_.end();
    for (auto block = kept_.begin(); block != kept_.end(); ++block)
      if (block->bytes >= bytes && (best == kept_.end() || block->bytes < best->bytes)) best = block;
    if (best != kept_.end()) {
      const Block block = *best;
      const std::size_t rest = block.bytes - bytes;
      if (rest < std::max(kSmallest, bytes / 8)) {
        bytes = block.bytes;
        kept_.erase(best);
      } else {
        *best = {static_cast<char*>(block.address) + bytes, rest};
      }
      used_.emplace(block.address, bytes);
      used_bytes_ += bytes;
      kept_bytes_ -= bytes;
      return block.address;
    }
    std::size_t sum = 0;
    auto last = kept_.begin();
    for (; last != kept_.end() && sum < bytes; ++last) sum += last->bytes;
    given_back.assign(kept_.begin(), last);
    kept_.erase(kept_.begin(), last);
    kept_bytes_ -= sum;
  }
  for (const Block& block : given_back) ::munmap(block.address, block.bytes);
  void* address = map(bytes);
  const std::lock_guard lock(mutex_);
  kept_.reserve(kept_.size() + used_.size() + 1);
  if (address == nullptr) {
    for (const Block& block : kept_) ::munmap(block.address, block.bytes);
    kept_.clear();
    kept_bytes_ = 0;
    address = map(bytes);
    if (address == nullptr) return nullptr;
  }
  used_.emplace(address, bytes);
  used_bytes_ += bytes;
  return address;
}

bool LargeBlocks::release(void* address) noexcept {
  // Those of the heap seldom begin a page: no lock for most.
  if (reinterpret_cast<std::uintptr_t>(address) % kPage != 0) return false;
  const std::lock_guard lock(mutex_);
  const auto used = used_.find(address);
  if (used == used_.end()) return false;
  kept_.push_back({address, used->second});
  used_bytes_ -= used->second;
  kept_bytes_ += used->second;
  used_.erase(used);
  auto last = kept_.begin();
  for (; last != kept_.end() && kept_bytes_ > used_bytes_ / 2 + kAlwaysKept; ++last) {
    ::munmap(last->address, last->bytes);
    kept_bytes_ -= last->bytes;
  }
  kept_.erase(kept_.begin(), last);
  return true;
}

std::size_t LargeBlocks::held_bytes() const {
  const std::lock_guard lock(mutex_);
  return used_bytes_ + kept_bytes_;
}

}  // namespace voronoi::kernels
