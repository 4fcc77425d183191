#include "core/heap.h"

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <vector>

#include "support/skip.h"

#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define VORONOI_OTHER_ALLOCATOR
#endif
#endif

namespace voronoi::core {
namespace {

std::int64_t resident_bytes() {
  std::int64_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * 4096;
}

TEST(Heap, GivesBackWhatLivesBetweenSmallBlocks) {
#ifdef VORONOI_OTHER_ALLOCATOR
  VORONOI_SKIP_MACHINE("sanitizers have an allocator of their own");
#endif
  constexpr std::size_t kLarge = std::size_t{1} << 20, kCount = 64;
  { const std::vector<char> first(2 * kLarge, 1); }  // from now on blocks of this size are the heap's
  std::vector<std::unique_ptr<std::vector<char>>> large;
  std::vector<std::unique_ptr<std::vector<char>>> small;
  for (std::size_t i = 0; i < kCount; ++i) {
    large.push_back(std::make_unique<std::vector<char>>(kLarge, 1));
    small.push_back(std::make_unique<std::vector<char>>(1000, 1));
  }
  large.clear();
  const std::int64_t kept = resident_bytes();
  give_back_free_pages();
  EXPECT_LT(resident_bytes(), kept - static_cast<std::int64_t>(kCount * kLarge / 2));
}

}  // namespace
}  // namespace voronoi::core
