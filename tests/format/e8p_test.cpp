#include "format/e8p.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "core/error.h"
#include "support/dense_turn.h"
#include "support/random_packed.h"
#include "support/typed_encoding.h"

namespace voronoi::format {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

E8pEncoding fields_of(const Encoding& encoding) {
  const E8pView view = e8p_view(encoding);
  const auto owned = [](const auto& values) { return std::vector(values.begin(), values.end()); };
  return {view,
          owned(view.codes),
          owned(view.e8_residual),
          owned(view.e8p_residual),
          owned(view.in_signs),
          owned(view.out_signs),
          owned(view.scale),
          owned(view.in_factor),
          owned(view.out_factor)};
}

TEST(E8pFormat, DecodesToCodewordsTurnedBackOnBothSides) {
  // 24 and 20 have matrices of their own orders, 27 has none; 27 and 12 are no multiples of 8.
  for (const auto& [out, in] : {std::pair<std::int64_t, std::int64_t>{24, 40}, {20, 27}, {27, 12}})
    for (const int bits : {2, 3, 4}) {
      const Encoding encoding = test::random_packed(test::E8pShape{out, in, bits});
      ASSERT_EQ(find_problem(encoding), "");
      const E8pEncoding e = fields_of(encoding);
      const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
      std::vector<double> q(at(out * in));
      for (std::int64_t row = 0; row < out; ++row)
        for (std::int64_t g = 0; g < e.n_groups(); ++g) {
          const std::size_t place = at(row * e.n_groups() + g);
          float word[8], rest[8] = {};
          kernels::decode_e8p(e.codes[place], word);
          if (bits == 3) kernels::decode_e8(e.e8_residual[place], rest);
          if (bits == 4) kernels::decode_e8p(e.e8p_residual[place], rest);
          const double by = bits == 2 ? 0 : bits == 3 ? 1 / 2.04 : 1 / 3.45;
          for (std::int64_t i = 0; i < 8 && 8 * g + i < in; ++i)
            q[at(row * in + 8 * g + i)] =
                static_cast<double>(e.scale[0]) * (static_cast<double>(word[i]) + by * static_cast<double>(rest[i]));
        }
      const std::vector<double> t_in = test::dense_turn(in, e.in_signs), t_out = test::dense_turn(out, e.out_signs);
      std::vector<double> half(q.size());
      for (std::int64_t row = 0; row < out; ++row)
        for (std::int64_t c = 0; c < in; ++c)
          for (std::int64_t j = 0; j < in; ++j) half[at(row * in + c)] += q[at(row * in + j)] * t_in[at(j * in + c)];
      const std::vector<float> weight = test::decoded(encoding);
      for (std::int64_t row = 0; row < out; ++row)
        for (std::int64_t c = 0; c < in; ++c) {
          double value = 0;
          for (std::int64_t j = 0; j < out; ++j) value += t_out[at(j * out + row)] * half[at(j * in + c)];
          ASSERT_NEAR(static_cast<double>(weight[at(row * in + c)]), value, 1e-6) << out << " x " << in << ", " << bits;
        }
    }
}

TEST(E8pFormat, SidesThatAreNotTurnedStayAsTheyAre) {
  E8pEncoding e = fields_of(test::random_packed(test::E8pShape{3, 16, 2}));
  e.in_signs.clear();
  e.out_signs.clear();
  e.scale = {0.5F};
  e.codes = {0x0000, 0x0001, 0x1234, 0xFFFF, 0, 1};
  const std::vector<float> weight = test::decoded(to_encoding(e));
  EXPECT_EQ(weight[0], 0.375F);
  EXPECT_EQ(weight[8], 0.125F);
  EXPECT_EQ(weight[16], -0.375F);
  EXPECT_EQ(weight[20], -0.875F);
  EXPECT_EQ(weight[31], 0.375F);
}

TEST(E8pFormat, TheProductIsThatOfTheDecodedWeightAtAnyNumberOfThreads) {
  for (const int bits : {2, 3, 4}) {
    const std::int64_t out = 36, in = 90;
    const Encoding encoding = test::random_packed(test::E8pShape{out, in, bits, true, core::DType::f16, bits == 3});
    const std::vector<float> weight = test::decoded(encoding);
    std::vector<float> x(5 * static_cast<std::size_t>(in));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 19) / 19 - 0.5F;
    std::vector<float> first;
    for (const int threads : {1, 3}) {
      backend::Context context(backend::Device::cpu, threads);
      const std::unique_ptr<PackedMatrix> matrix = encoding.format->upload(context, encoding);
      std::vector<float> result(5 * static_cast<std::size_t>(out), 0.5F), decoded(weight.size());
      matrix->decode_f32(context, decoded.data());
      EXPECT_EQ(decoded, weight);
      matrix->multiply(context, 5, x.data(), true, result.data());
      if (first.empty()) first = result;
      EXPECT_EQ(result, first);
      for (std::size_t t = 0; t < 5; ++t)
        for (std::size_t row = 0; row < static_cast<std::size_t>(out); ++row) {
          double sum = 0.5;
          for (std::size_t c = 0; c < static_cast<std::size_t>(in); ++c)
            sum += static_cast<double>(weight[row * static_cast<std::size_t>(in) + c]) *
                   static_cast<double>(x[t * static_cast<std::size_t>(in) + c]);
          ASSERT_NEAR(static_cast<double>(result[t * static_cast<std::size_t>(out) + row]), sum, 1e-5);
        }
    }
  }
}

TEST(E8pFormat, CountsEveryBitAndHasABound) {
  const Encoding encoding = test::random_packed(test::E8pShape{40, 96, 3});
  EXPECT_EQ(stored_bits(encoding), 40 * 12 * (16 + 8) + 32 * (3 + 2) + 32);
  EXPECT_EQ(nominal_bits(encoding), 3);
  float largest = 0;
  for (const float value : test::decoded(encoding)) largest = std::max(largest, std::fabs(value));
  EXPECT_LE(static_cast<double>(largest), encoding.format->decoded_bound(encoding));
  const Encoding tuned = test::random_packed(test::E8pShape{40, 96, 3, true, core::DType::f16, true});
  EXPECT_EQ(stored_bits(tuned), stored_bits(encoding) + 16 * (40 + 96));
  for (const float value : test::decoded(tuned))
    ASSERT_LE(static_cast<double>(std::fabs(value)), tuned.format->decoded_bound(tuned));
}

TEST(E8pFormat, WhatDoesNotFitIsNamed) {
  const auto problem = [](const std::function<void(Encoding&)>& change) {
    Encoding encoding = test::random_packed(test::E8pShape{5, 20, 3});
    change(encoding);
    return find_problem(encoding);
  };
  const auto array = [](Encoding& e, const std::string& name) -> NamedArray& {
    return *std::find_if(e.arrays.begin(), e.arrays.end(), [&](const NamedArray& one) { return one.name == name; });
  };
  EXPECT_EQ(problem([](Encoding&) {}), "");
  EXPECT_THAT(problem([](Encoding& e) { e.attributes["bits"] = 5; }), StartsWith("bits is 5"));
  EXPECT_THAT(problem([](Encoding& e) { e.attributes["bits"] = 4; }), StartsWith("e8_residual has 15"));
  EXPECT_THAT(problem([](Encoding& e) { e.in_features = 30; }), HasSubstr("codes has 15 elements where 20"));
  EXPECT_THAT(problem([](Encoding& e) { e.out_features = std::int64_t{1} << 40; }), HasSubstr("out_features"));
  EXPECT_THAT(problem([&](Encoding& e) { array(e, "in_signs").bytes[2] = std::byte{0x80}; }),
              HasSubstr("in_signs has bits past the last of 20"));
  EXPECT_THAT(problem([&](Encoding& e) { array(e, "scale").bytes[3] = std::byte{0x7F}; }), StartsWith("scale is "));
  EXPECT_THAT(problem([&](Encoding& e) { array(e, "scale").bytes[3] = std::byte{0xBD}; }), StartsWith("scale is -"));
}

}  // namespace
}  // namespace voronoi::format
