#include "format/aqlm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "support/random_packed.h"
#include "support/typed_encoding.h"

namespace voronoi::format {
namespace {

using core::DType;
using test::AqlmShape;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(Aqlm, DecodesToSumsOfCentroidsByHand) {
  AqlmEncoding e;
  e.out_features = 2;
  e.in_features = 4;
  e.codebooks = 2;
  e.code_bits = 2;
  e.in_group = 2;
  e.codes8 = {0, 1, 0xFF, 2, 0xFE, 0, 1, 0x43};  // of which the low two bits count: 0 1, 3 2; 2 0, 1 3
  for (const float value :
       {1.0F, 2.0F, 3.0F, 4.0F, 5.0F, 6.0F, 7.0F, 8.0F, 0.5F, 0.25F, -1.0F, 1.0F, 0.0F, -8.0F, 16.0F, 32.0F})
    e.codebook.push_back(core::float_to_half(value));
  e.scale = {core::float_to_half(2.0F), core::float_to_half(-0.5F)};
  const Encoding encoding = to_encoding(e);
  ASSERT_EQ(find_problem(encoding), "");
  EXPECT_EQ(test::decoded(encoding), (std::vector<float>{0, 6, 14, 0, -2.75F, -3.125F, -9.5F, -18}));
  EXPECT_EQ(stored_bits(encoding), 8 * 8 + 16 * 16 + 2 * 16);
  EXPECT_EQ(nominal_bits(encoding), 2);
}

TEST(Aqlm, CodesAreStoredInTwosComplement) {
  EXPECT_EQ(stored_code(8, 127), 127);
  EXPECT_EQ(stored_code(8, 128), 0xFF80);
  EXPECT_EQ(stored_code(8, 255), 0xFFFF);
  EXPECT_EQ(stored_code(5, 15), 15);
  EXPECT_EQ(static_cast<std::int16_t>(stored_code(5, 16)), -16);
  EXPECT_EQ(static_cast<std::int16_t>(stored_code(12, 4095)), -1);
  EXPECT_EQ(stored_code(16, 65535), 65535);
  EXPECT_EQ(stored_code(1, 1), 0xFFFF);
}

TEST(Aqlm, TheProductIsThatOfTheDecodedWeightAtAnyNumberOfThreads) {
  for (const AqlmShape& shape : {AqlmShape{37, 136, 2, 6, 8}, AqlmShape{37, 136, 3, 9, 4, DType::bf16}}) {
    const Encoding encoding = test::random_packed(shape);
    const std::vector<float> weight = test::decoded(encoding);
    std::vector<float> x;
    for (int i = 0; i < 5 * 136; ++i) x.push_back(static_cast<float>((i * 37) % 101) / 101 - 0.5F);
    std::vector<float> first;
    for (const int threads : {1, 3}) {
      backend::Context context(backend::Device::cpu, threads);
      const std::unique_ptr<PackedMatrix> matrix = encoding.format->upload(context, encoding);
      EXPECT_EQ(8 * matrix->size_bytes(), stored_bits(encoding));
      std::vector<float> out(std::size_t{5} * 37, 0.5F);
      matrix->multiply(context, 5, x.data(), true, out.data());
      if (first.empty()) first = out;
      EXPECT_EQ(out, first);
      for (std::size_t t = 0; t < 5; ++t)
        for (std::size_t row = 0; row < 37; ++row) {
          double sum = 0.5;
          for (std::size_t c = 0; c < 136; ++c)
            sum += static_cast<double>(weight[row * 136 + c]) * static_cast<double>(x[t * 136 + c]);
          ASSERT_NEAR(static_cast<double>(out[t * 37 + row]), sum, 1e-4) << t << ", " << row;
        }
      std::vector<std::uint16_t> narrow(weight.size());
      matrix->decode_16(context, narrow.data());
      for (std::size_t i = 0; i < weight.size(); ++i) ASSERT_EQ(narrow[i], core::to_bits16(encoding.dtype, weight[i]));
    }
  }
}

TEST(Aqlm, NoDecodedWeightIsAboveTheBound) {
  const Encoding encoding = test::random_packed(AqlmShape{64, 96, 2, 3, 8});
  double largest = 0;
  for (const float value : test::decoded(encoding)) largest = std::max(largest, std::fabs(static_cast<double>(value)));
  EXPECT_LE(largest, encoding.format->decoded_bound(encoding));
  EXPECT_GE(largest, 0.4 * encoding.format->decoded_bound(encoding));
}

TEST(Aqlm, HostileExtentsAreNamed) {
  const auto problem = [](const std::function<void(AqlmExtents&)>& change) {
    AqlmExtents e;
    e.out_features = 8;
    e.in_features = 32;
    change(e);
    return find_extent_problem(e);
  };
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  EXPECT_THAT(problem([](auto&) {}), IsEmpty());
  EXPECT_THAT(problem([](auto& e) { e.out_features = 0; }), HasSubstr("out_features"));
  EXPECT_THAT(problem([](auto& e) { e.in_features = kHuge; }), HasSubstr("in_features"));
  EXPECT_THAT(problem([](auto& e) { e.in_features = 36; }), HasSubstr("in_features is 36"));
  EXPECT_THAT(problem([](auto& e) { e.codebooks = 0; }), HasSubstr("codebooks"));
  EXPECT_THAT(problem([](auto& e) { e.codebooks = kHuge; }), HasSubstr("codebooks"));
  EXPECT_THAT(problem([](auto& e) { e.code_bits = 0; }), HasSubstr("code_bits"));
  EXPECT_THAT(problem([](auto& e) { e.code_bits = 64; }), HasSubstr("code_bits"));
  EXPECT_THAT(problem([](auto& e) { e.in_group = 0; }), HasSubstr("in_group"));
  EXPECT_THAT(problem([](auto& e) { e.in_group = -8; }), HasSubstr("in_group"));
  EXPECT_THAT(problem([](auto& e) { e.in_group = kHuge; }), HasSubstr("in_group"));
}

TEST(Aqlm, HostileArraysAreNamed) {
  const Encoding narrow = test::random_packed(AqlmShape{6, 32}), wide = test::random_packed(AqlmShape{6, 32, 1, 9});
  const auto problem = [](const Encoding& sound, const std::function<void(AqlmEncoding&)>& change) {
    AqlmEncoding e = test::aqlm_of(sound);
    change(e);
    return find_problem(e.view());
  };
  EXPECT_THAT(problem(narrow, [](auto&) {}), IsEmpty());
  EXPECT_THAT(problem(narrow, [](auto& e) { e.codes8.pop_back(); }), HasSubstr("codes8"));
  EXPECT_THAT(problem(narrow, [](auto& e) { e.codes16.push_back(0); }), HasSubstr("codes16"));
  EXPECT_THAT(problem(narrow, [](auto& e) { e.codebook.push_back(0); }), HasSubstr("codebook"));
  EXPECT_THAT(problem(narrow, [](auto& e) { e.codebook[5] = 0x7C00; }), HasSubstr("codebook[5] is not finite"));
  EXPECT_THAT(problem(narrow, [](auto& e) { e.scale[1] = 0xFE00; }), HasSubstr("scale[1] is not finite"));
  EXPECT_THAT(problem(narrow, [](auto& e) { e.scale.clear(); }), HasSubstr("scale"));
  EXPECT_THAT(problem(wide, [](auto&) {}), IsEmpty());
  EXPECT_THAT(problem(wide, [](auto& e) { e.codes16.clear(); }), HasSubstr("codes16"));
  EXPECT_THAT(problem(wide, [](auto& e) { e.codes8.push_back(0); }), HasSubstr("codes8"));
  // Whatever stands there, a code is one of the codebook's.
  AqlmEncoding e = test::aqlm_of(wide);
  for (std::uint16_t& code : e.codes16) code = static_cast<std::uint16_t>(code ^ 0xAA00U);
  EXPECT_EQ(test::decoded(to_encoding(e)), test::decoded(wide));
}

}  // namespace
}  // namespace voronoi::format
