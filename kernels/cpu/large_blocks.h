// Memory of arrays that are large: pages of their own, kept for the next array of about the size. In the allocator's
// heap what smaller and longer-lived blocks leave between them cannot be given back, and the peak of a run hangs on
// where they came to lie.
#pragma once

#include <cstddef>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace voronoi::kernels {

class LargeBlocks {
 public:
  /// Blocks of fewer bytes are the heap's.
  static constexpr std::size_t kSmallest = std::size_t{1} << 19;

  /// That of this process.
  static LargeBlocks& of_process();

  LargeBlocks() = default;
  ~LargeBlocks();
  LargeBlocks(const LargeBlocks&) = delete;
  LargeBlocks& operator=(const LargeBlocks&) = delete;

  /// `bytes` (at least kSmallest) at the start of a page, uninitialised: of a released block that is as large, else new
  /// pages in the place of as many released ones, so that memory in use and kept together grow only when that in use
  /// does. At most half as much is kept as is in use, and 8 MiB. Null when there is none.
  void* allocate(std::size_t bytes);
  /// False when `address` is none of allocate's.
  bool release(void* address) noexcept;
  /// In use and kept.
  std::size_t held_bytes() const;

 private:
  struct Block {
    void* address;
    std::size_t bytes;
  };

  mutable std::mutex mutex_;
  std::unordered_map<void*, std::size_t> used_;
  std::vector<Block> kept_;  ///< oldest first
  std::size_t used_bytes_ = 0, kept_bytes_ = 0;
};

}  // namespace voronoi::kernels
