#include "kernels/cpu/packed_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "core/packing.h"

namespace voronoi::kernels::packed {
namespace {

TEST(PackedRows, UnpackWhatCorePacks) {
  std::mt19937 engine(1);
  for (int bits = 1; bits <= 16; ++bits)
    for (const std::int64_t n : {1, 7, 8, 9, 31, 32, 33, 100, 577}) {
      std::vector<std::uint32_t> values(static_cast<std::size_t>(n));
      for (std::uint32_t& value : values) value = static_cast<std::uint32_t>(engine()) >> (32 - bits);
      // Of exactly the words that are needed: reading beyond them is what the sanitizers' run of this test would see.
      std::vector<std::uint32_t> words(static_cast<std::size_t>(core::packed_words(n, bits)));
      core::pack_row(values, bits, words);
      std::vector<std::int32_t> codes(values.size());
      unpack(words.data(), bits, n, codes.data());
      EXPECT_EQ(std::vector<std::uint32_t>(codes.begin(), codes.end()), values) << n << " of " << bits << " bits";
    }
}

TEST(PackedRows, GroupsTakeTheirOwnNumbers) {
  const std::vector<std::int32_t> codes{0, 1, 2, 3, 3, 2, 1}, zeros{1, 2, 0};
  const std::vector<float> scales{2, .5F, 3}, levels{-1, -.5F, .25F, 1}, both{2, 4, .5F, 8, 3, 1};
  std::vector<float> values(codes.size());
  uniform_row(7, 3, codes.data(), zeros.data(), scales.data(), values.data());
  EXPECT_EQ(values, (std::vector<float>{-2, 0, 2, .5F, .5F, 0, 3}));
  signed_levels_row(7, 3, codes.data(), levels.data(), both.data(), values.data());
  EXPECT_EQ(values, (std::vector<float>{-4, -2, .5F, .5F, .5F, .125F, -.5F}));
}

TEST(PackedRows, SumsAreSixteenAndATree) {
  // Terms of widely different size: any other order of adding gives other bits.
  std::mt19937 engine(3);
  std::normal_distribution<float> normal;
  for (const std::int64_t n : {1, 15, 16, 17, 40, 1000}) {
    std::vector<float> a(static_cast<std::size_t>(n)), b(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      a[i] = std::exp(5 * normal(engine));
      b[i] = normal(engine);
    }
    std::vector<float> sums(16);
    for (std::size_t i = 0; i < a.size(); ++i) sums[i % 16] += a[i] * b[i];
    while (sums.size() > 1) {
      const std::size_t half = sums.size() / 2;
      for (std::size_t i = 0; i < half; ++i) sums[i] += sums[i + half];
      sums.resize(half);
    }
    EXPECT_EQ(dot(n, a.data(), b.data()), sums[0]) << n;
  }
}

}  // namespace
}  // namespace voronoi::kernels::packed
