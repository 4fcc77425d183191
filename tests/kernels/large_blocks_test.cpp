#include "kernels/cpu/large_blocks.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace voronoi::kernels {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

TEST(LargeBlocks, WhatWasReleasedServesTheNextOfAboutItsSize) {
  LargeBlocks blocks;
  void* other = blocks.allocate(64 * kMiB);
  void* first = blocks.allocate(8 * kMiB);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first) % 4096, 0);
  std::memset(first, 1, 8 * kMiB);
  EXPECT_TRUE(blocks.release(first));
  EXPECT_EQ(blocks.held_bytes(), 72 * kMiB);
  EXPECT_EQ(blocks.allocate(8 * kMiB - 100'000), first);
  EXPECT_TRUE(blocks.release(first));
  EXPECT_EQ(blocks.allocate(5 * kMiB), first);
  EXPECT_EQ(blocks.allocate(2 * kMiB), static_cast<char*>(first) + 5 * kMiB) << "the rest of it was kept";
  EXPECT_EQ(blocks.held_bytes(), 72 * kMiB);
  EXPECT_NE(blocks.allocate(4 * kMiB), nullptr);
  EXPECT_EQ(blocks.held_bytes(), 75 * kMiB) << "new pages take the place of kept ones";
  EXPECT_TRUE(blocks.release(other));
}

TEST(LargeBlocks, KeepLittleOfWhatIsNoLongerUsed) {
  LargeBlocks blocks;
  std::vector<void*> used;
  for (int i = 0; i < 10; ++i) used.push_back(blocks.allocate(4 * kMiB));
  for (void* address : used) EXPECT_TRUE(blocks.release(address));
  EXPECT_EQ(blocks.held_bytes(), 8 * kMiB);
}

TEST(LargeBlocks, KnowTheirOwn) {
  LargeBlocks blocks;
  void* own = blocks.allocate(LargeBlocks::kSmallest);
  alignas(4096) static char others[4096];
  EXPECT_FALSE(blocks.release(others));
  EXPECT_FALSE(blocks.release(static_cast<char*>(own) + 64));
  EXPECT_TRUE(blocks.release(own));
  EXPECT_FALSE(blocks.release(own)) << "twice";
}

}  // namespace
}  // namespace voronoi::kernels
