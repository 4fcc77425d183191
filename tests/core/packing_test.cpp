#include "core/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "core/error.h"
#include "core/random.h"

namespace voronoi::core {
namespace {

using testing::ElementsAre;

std::vector<std::uint32_t> random_values(std::size_t n, int bits, std::uint64_t stream) {
  const core::CounterRandom random(7, stream);
  std::vector<std::uint32_t> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = static_cast<std::uint32_t>(random.bits(i) >> (64 - bits));
  return values;
}

TEST(Packing, TwelveBitValuesStraddleWordsLowestBitFirst) {
  // 0xABC 0x123 0xFED 0x7 laid from bit 0 on: ...007 FED 123 ABC; word 0 takes the low 32 bits, D of FED's low byte
  // split.
  const std::vector<std::uint32_t> values{0xABC, 0x123, 0xFED, 0x007};
  std::vector<std::uint32_t> words(2);
  pack_row(values, 12, words);
  EXPECT_THAT(words, ElementsAre(0xED123ABCU, 0x0000007FU));
}

TEST(Packing, OneBitValuesFillAWordFromTheRight) {
  std::vector<std::uint32_t> values(33, 0);
  values[0] = values[4] = values[31] = values[32] = 1;
  std::vector<std::uint32_t> words(2);
  pack_row(values, 1, words);
  EXPECT_THAT(words, ElementsAre(0x80000011U, 1U));
}

TEST(Packing, UnpackingGivesBackEveryWidthAndOddCount) {
  for (int bits = 1; bits <= 32; ++bits)
    for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{31}, std::size_t{32},
                                std::size_t{33}, std::size_t{577}}) {
      const auto values = random_values(n, bits, static_cast<std::uint64_t>(bits));
      std::vector<std::uint32_t> words(static_cast<std::size_t>(packed_words(static_cast<std::int64_t>(n), bits)),
                                       0xFFFFFFFFU);
      pack_row(values, bits, words);
      std::vector<std::uint32_t> back(n, 0xFFFFFFFFU);
      unpack_row(words, bits, back);
      ASSERT_EQ(back, values) << bits << " bits, " << n << " values";
    }
}

TEST(Packing, EveryBitIsWhereTheStreamPutsIt) {
  for (const int bits : {3, 7, 11, 24, 31}) {
    const auto values = random_values(50, bits, 99);
    std::vector<std::uint32_t> words(static_cast<std::size_t>(packed_words(50, bits)));
    pack_row(values, bits, words);
    for (std::size_t i = 0; i < words.size() * 32; ++i) {
      const std::size_t value = i / static_cast<std::size_t>(bits), bit = i % static_cast<std::size_t>(bits);
      const std::uint32_t expected = value < values.size() ? (values[value] >> bit) & 1U : 0U;
      ASSERT_EQ((words[i / 32] >> (i % 32)) & 1U, expected) << bits << " bits, bit " << i << " of the stream";
    }
  }
}

TEST(Packing, AValueWiderThanItsBitsIsRefused) {
  std::vector<std::uint32_t> words(1);
  EXPECT_THROW(pack_row(std::vector<std::uint32_t>{1, 8}, 3, words), core::InternalError);
}

TEST(Packing, TooFewWordsAreRefusedBeforeAnyIsTouched) {
  std::vector<std::uint32_t> words(1), values(5);
  EXPECT_THROW(unpack_row(words, 8, values), core::InternalError);
  EXPECT_THROW(pack_row(values, 8, words), core::InternalError);
  EXPECT_THROW(pack_row(values, 33, words), core::InternalError);
  EXPECT_THROW(unpack_row(words, 0, values), core::InternalError);
}

}  // namespace
}  // namespace voronoi::core
