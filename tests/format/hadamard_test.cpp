#include "format/hadamard.h"

#include <gtest/gtest.h>

#include <bit>
#include <set>

namespace voronoi::format {
namespace {

TEST(Hadamard, EveryOrderThatIsChosenIsOrthogonal) {
  std::set<std::int64_t> orders;
  for (std::int64_t odd = 3; odd < 128; odd += 2) orders.insert(hadamard_plan(odd << 20).order);
  orders.erase(1);
  EXPECT_GT(orders.size(), 50U);
  for (const std::int64_t order : orders) {
    const std::vector<std::uint32_t> bits = hadamard_factor(order);
    const std::int64_t words = sign_words(order);
    ASSERT_EQ(std::ssize(bits), order * words);
    for (std::int64_t i = 0; i < order; ++i)
      for (std::int64_t j = 0; j < i; ++j) {
        std::int64_t differ = 0;
        for (std::int64_t w = 0; w < words; ++w)
          differ += std::popcount(bits[static_cast<std::size_t>(i * words + w)] ^
                                  bits[static_cast<std::size_t>(j * words + w)]);
        ASSERT_EQ(2 * differ, order) << "order " << order << ", rows " << i << " and " << j;
      }
  }
}

TEST(Hadamard, SizesOfModelsAreMixedWhole) {
  const auto expect = [](std::int64_t n, std::int64_t order, std::int64_t block, std::int64_t copies = 1) {
    const HadamardPlan plan = hadamard_plan(n);
    EXPECT_EQ(plan.order, order) << n;
    EXPECT_EQ(plan.block, block) << n;
    EXPECT_EQ(plan.copies, copies) << n;
    EXPECT_EQ(plan.order * plan.block * plan.copies, n);
  };
  expect(4096, 1, 4096);
  expect(192, 12, 16);
  expect(576, 36, 16);
  expect(1536, 12, 128);
  expect(5120, 20, 256);
  expect(11008, 344, 32);  // of 7^3; no construction here for 172
  expect(13824, 108, 128);
  expect(14336, 28, 512);
  expect(53248, 52, 1024);  // of 5^2
  expect(29568, 924, 32);
  expect(1, 1, 1);
  expect(13696, 1, 128, 107);  // 428 is of no construction here
  expect(45, 1, 1, 45);
  expect(22, 1, 2, 11);
}

}  // namespace
}  // namespace voronoi::format
