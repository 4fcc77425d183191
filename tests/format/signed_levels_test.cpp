#include "format/signed_levels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/random.h"
#include "support/random_packed.h"
#include "support/typed_encoding.h"

namespace voronoi::format {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(LevelTables, AreThoseOfTheProgram) {
  EXPECT_THAT(levels_of(0, 4),
              ElementsAre(-1.0F, -0.6961928F, -0.52507305F, -0.3949175F, -0.28444138F, -0.18477343F, -0.09105004F, 0.0F,
                          0.0795803F, 0.1609302F, 0.2461123F, 0.33791524F, 0.44070983F, 0.562617F, 0.72295684F, 1.0F));
  EXPECT_THAT(levels_of(0, 3),
              ElementsAre(-1.0F, -0.53502274F, -0.2469314F, 0.0F, 0.18333752F, 0.3819939F, 0.6229857F, 1.0F));
  EXPECT_THAT(levels_of(1, 4), ElementsAre(-6, -4, -3, -2, -1.5F, -1, -0.5F, 0, 0, 0.5F, 1, 1.5F, 2, 3, 4, 6));
  EXPECT_THAT(levels_of(1, 3), ElementsAre(-4, -2, -1, 0, 0, 1, 2, 4));
  for (const auto& [table, bits] : {std::pair{0, 2}, {1, 2}, {0, 5}, {2, 4}, {-1, 3}})
    EXPECT_THAT(levels_of(table, bits), IsEmpty());
}

TEST(SignedLevels, DecodeToALevelTimesTheScaleOfItsSign) {
  for (const LevelTable table : {LevelTable::normal, LevelTable::floating})
    for (const int bits : {3, 4})
      for (const bool scaled : {false, true}) {
        const Encoding encoding =
            test::random_packed(test::SignedShape{3, 70, bits, table, 16, true, core::DType::bf16, scaled});
        const SignedLevelsEncoding e = test::signed_levels_of(encoding);
        const std::vector<float> weight = test::decoded(encoding);
        const std::span<const float> levels = levels_of(static_cast<std::int64_t>(table), bits);
        const auto words = static_cast<std::size_t>(core::packed_words(70, bits));
        std::vector<std::uint32_t> codes(70);
        for (std::size_t row = 0; row < 3; ++row) {
          core::unpack_row(std::span(e.codes).subspan(row * words, words), bits, codes);
          for (std::size_t c = 0; c < 70; ++c) {
            const float level = levels[codes[c]];
            const float scale =
                core::from_bits16(core::DType::bf16, e.scale[2 * (row * 5 + c / 16) + (level < 0 ? 1 : 0)]);
            const float factor = scaled ? core::from_bits16(core::DType::bf16, e.column_scale[e.perm[c]]) : 1.0F;
            ASSERT_EQ(weight[row * 70 + e.perm[c]], scale * level * factor) << bits << " bits, " << row << ", " << c;
          }
        }
      }
}

TEST(SignedLevels, TheProductIsThatOfTheDecodedWeightAtAnyNumberOfThreads) {
  const Encoding encoding =
      test::random_packed(test::SignedShape{37, 131, 3, LevelTable::normal, 24, true, core::DType::f16, true});
  const std::vector<float> weight = test::decoded(encoding);
  const core::CounterRandom random(3, 1);
  std::vector<float> x(std::size_t{5} * 131);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(random.uniform(i) - 0.5);
  std::vector<float> first;
  for (const int threads : {1, 3}) {
    backend::Context context(backend::Device::cpu, threads);
    const std::unique_ptr<PackedMatrix> matrix = encoding.format->upload(context, encoding);
    std::vector<float> out(std::size_t{5} * 37, 0.5F);
    matrix->multiply(context, 5, x.data(), true, out.data());
    if (first.empty()) first = out;
    EXPECT_EQ(out, first);
    for (std::size_t t = 0; t < 5; ++t)
      for (std::size_t row = 0; row < 37; ++row) {
        double sum = 0.5;
        for (std::size_t c = 0; c < 131; ++c)
          sum += static_cast<double>(weight[row * 131 + c]) * static_cast<double>(x[t * 131 + c]);
        ASSERT_NEAR(static_cast<double>(out[t * 37 + row]), sum, 1e-5) << t << ", " << row;
      }
  }
}

TEST(SignedLevels, NoDecodedWeightIsAboveTheBound) {
  const Encoding encoding =
      test::random_packed(test::SignedShape{8, 96, 4, LevelTable::floating, 32, false, core::DType::f16, true});
  float largest = 0;
  for (const float value : test::decoded(encoding)) largest = std::max(largest, std::fabs(value));
  EXPECT_LE(static_cast<double>(largest), encoding.format->decoded_bound(encoding));
}

TEST(SignedLevels, TellsWhatIsWrong) {
  const Encoding sound =
      test::random_packed(test::SignedShape{4, 20, 3, LevelTable::normal, 8, true, core::DType::f16, true});
  ASSERT_EQ(find_problem(sound), "");
  const auto problem = [&](const auto& damage) {
    Encoding encoding = sound;
    damage(encoding);
    return find_problem(encoding);
  };
  const auto array = [](Encoding& encoding, const std::string& name) -> NamedArray& {
    return *std::find_if(encoding.arrays.begin(), encoding.arrays.end(),
                         [&](const NamedArray& one) { return one.name == name; });
  };
  const auto set16 = [](NamedArray& one, std::size_t i, std::uint16_t bits) {
    one.bytes[2 * i] = static_cast<std::byte>(bits & 0xFF);
    one.bytes[2 * i + 1] = static_cast<std::byte>(bits >> 8);
  };
  EXPECT_THAT(problem([](Encoding& e) { e.attributes["table"] = 2; }), HasSubstr("table is 2 with bits 3"));
  EXPECT_THAT(problem([](Encoding& e) { e.attributes["bits"] = 5; }), HasSubstr("no levels"));
  EXPECT_THAT(problem([](Encoding& e) { e.attributes["group_size"] = 0; }), HasSubstr("group_size is 0"));
  EXPECT_THAT(problem([](Encoding& e) { e.attributes.erase("table"); }), HasSubstr("'table' is missing"));
  EXPECT_THAT(problem([](Encoding& e) { e.attributes["group_size"] = 16; }), HasSubstr("scale has 24"));
  EXPECT_THAT(problem([&](Encoding& e) { set16(array(e, "scale"), 3, 0x7C00); }), HasSubstr("scale[3] is not finite"));
  EXPECT_THAT(problem([&](Encoding& e) { set16(array(e, "perm"), 0, 20); }), HasSubstr("perm is no permutation"));
  EXPECT_THAT(problem([&](Encoding& e) { set16(array(e, "column_scale"), 2, 0); }),
              HasSubstr("column_scale[2] is not above 0"));
  EXPECT_THAT(problem([&](Encoding& e) { set16(array(e, "column_scale"), 2, 0xBC00); }),
              HasSubstr("column_scale[2] is not above 0"));
  EXPECT_THAT(problem([&](Encoding& e) { array(e, "scale").shape = {4, 6}; }), HasSubstr("shape"));
}

TEST(ColumnScales, AreCheckedInUniformCodesAndAreNotNeeded) {
  const Encoding sound = test::random_packed(test::UniformShape{4, 20, 3, 8, false, core::DType::bf16, true});
  ASSERT_EQ(find_problem(sound), "");
  EXPECT_EQ(stored_bits(sound) - 16 * 20, stored_bits(test::random_packed(test::UniformShape{4, 20, 3, 8})));
  // The weight without them, column by column.
  UniformEncoding plain = test::uniform_of(sound);
  const std::vector<std::uint16_t> scale = plain.column_scale;
  plain.column_scale = {};
  const std::vector<float> with = test::decoded(sound), without = test::decoded(to_encoding(plain));
  for (std::size_t i = 0; i < with.size(); ++i)
    ASSERT_EQ(with[i], without[i] * core::from_bits16(core::DType::bf16, scale[i % 20])) << i;
  UniformEncoding bad = test::uniform_of(sound);
  bad.column_scale[5] = 0x7F80;
  EXPECT_THAT(find_problem(to_encoding(bad)), HasSubstr("column_scale[5] is not finite"));
  bad.column_scale[5] = 0x8000;
  EXPECT_THAT(find_problem(to_encoding(bad)), HasSubstr("column_scale[5] is not above 0"));
}

}  // namespace
}  // namespace voronoi::format
