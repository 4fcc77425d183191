#include "format/trellis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "core/error.h"
#include "support/dense_turn.h"
#include "support/random_packed.h"
#include "support/typed_encoding.h"

namespace voronoi::format {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::size_t place(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Q [out, in] by the bits of the strings.
std::vector<double> states_of(const TrellisView& e) {
  std::vector<double> q(place(e.out_features * e.in_features));
  const std::int64_t units = e.units();
  for (std::int64_t tile = 0; tile < kernels::trellis_tiles(units); ++tile)
    for (std::int64_t column = 0; column < e.in_features; ++column) {
      std::string bits;
      const std::int64_t first = kernels::first_unit(units, tile), end = kernels::first_unit(units, tile + 1);
      for (std::int64_t unit = first; unit < end; ++unit)
        for (std::int64_t word = 0; word < e.bits; ++word)
          for (int bit = 15; bit >= 0; --bit)
            bits += (e.codes[place((unit * e.in_features + column) * e.bits + word)] >> bit & 1) != 0 ? '1' : '0';
      for (std::int64_t row = 16 * first; row < std::min(e.out_features, 16 * end); ++row) {
        std::uint32_t state = 0;
        for (std::int64_t i = e.state_bits; i > 0; --i) {
          const std::int64_t bit = (row - 16 * first + 1) * e.bits - i;
          state = 2 * state + (bits[place((bit + std::ssize(bits)) % std::ssize(bits))] == '1' ? 1U : 0U);
        }
        q[place(row * e.in_features + column)] =
            static_cast<double>(e.scale[0]) *
            static_cast<double>(kernels::trellis_value(static_cast<kernels::TrellisCode>(e.code), state));
      }
    }
  return q;
}

TEST(TrellisFormat, DecodesToStatesTurnedBackOnBothSides) {
  for (const test::TrellisShape& shape :
       {test::TrellisShape{24, 40, 2}, test::TrellisShape{300, 12, 3, 14, 1}, test::TrellisShape{27, 20, 1, 12, 2},
        test::TrellisShape{40, 27, 4}, test::TrellisShape{16, 8, 5, 15},
        test::TrellisShape{24, 12, 2, 16, 0, true, core::DType::bf16, true}}) {
    const std::int64_t out = shape.out_features, in = shape.in_features;
    const Encoding encoding = test::random_packed(shape);
    ASSERT_EQ(find_problem(encoding), "");
    const TrellisView e = trellis_view(encoding);
    const std::vector<double> q = states_of(e);
    const std::vector<double> t_in = test::dense_turn(in, {e.in_signs.begin(), e.in_signs.end()}),
                              t_out = test::dense_turn(out, {e.out_signs.begin(), e.out_signs.end()});
    std::vector<double> half(q.size());
    for (std::int64_t row = 0; row < out; ++row)
      for (std::int64_t c = 0; c < in; ++c)
        for (std::int64_t j = 0; j < in; ++j)
          half[place(row * in + c)] += q[place(row * in + j)] * t_in[place(j * in + c)];
    const std::vector<float> weight = test::decoded(encoding);
    for (std::int64_t row = 0; row < out; ++row)
      for (std::int64_t c = 0; c < in; ++c) {
        double value = 0;
        for (std::int64_t j = 0; j < out; ++j) value += t_out[place(j * out + row)] * half[place(j * in + c)];
        if (shape.factors)
          value *= static_cast<double>(core::from_bits16(core::DType::f16, e.out_factor[place(row)])) *
                   static_cast<double>(core::from_bits16(core::DType::f16, e.in_factor[place(c)]));
        ASSERT_NEAR(static_cast<double>(weight[place(row * in + c)]), value, 1e-6) << out << " x " << in;
      }
  }
}

TEST(TrellisFormat, SidesThatAreNotTurnedStayAsTheyAre) {
  TrellisEncoding e;
  e.out_features = 16;
  e.in_features = 2;
  e.scale = {0.5F};
  // All states of column 0 are 0; the string of column 1 is one bit, the last: states 1, 4, 16 .. behind it in the
  // circle.
  e.codes = {0, 0, 0, 1};
  const std::vector<float> weight = test::decoded(to_encoding(e));
  for (std::size_t row = 0; row < 16; ++row) EXPECT_EQ(weight[2 * row], -1.7265625F);
  EXPECT_EQ(weight[31], 0.5F * kernels::trellis_value(kernels::TrellisCode::mul1, 1));
  EXPECT_EQ(weight[1], 0.5F * kernels::trellis_value(kernels::TrellisCode::mul1, 4));
  EXPECT_EQ(weight[13], 0.5F * kernels::trellis_value(kernels::TrellisCode::mul1, 1 << 14));
  EXPECT_EQ(weight[15], -1.7265625F);
}

TEST(TrellisFormat, TheProductIsThatOfTheDecodedWeightAtAnyNumberOfThreads) {
  for (const int bits : {1, 2, 3, 4, 5}) {
    const std::int64_t out = 36, in = 90;
    const Encoding encoding =
        test::random_packed(test::TrellisShape{out, in, bits, 16, 0, true, core::DType::f16, bits % 2 == 0});
    const std::vector<float> weight = test::decoded(encoding);
    std::vector<float> x(5 * place(in));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 19) / 19 - 0.5F;
    std::vector<float> first;
    for (const int threads : {1, 3}) {
      backend::Context context(backend::Device::cpu, threads);
      const std::unique_ptr<PackedMatrix> matrix = encoding.format->upload(context, encoding);
      std::vector<float> result(5 * place(out), 0.5F), decoded(weight.size());
      matrix->decode_f32(context, decoded.data());
      EXPECT_EQ(decoded, weight);
      matrix->multiply(context, 5, x.data(), true, result.data());
      if (first.empty()) first = result;
      EXPECT_EQ(result, first);
      for (std::size_t t = 0; t < 5; ++t)
        for (std::size_t row = 0; row < place(out); ++row) {
          double sum = 0.5;
          for (std::size_t c = 0; c < place(in); ++c)
            sum += static_cast<double>(weight[row * place(in) + c]) * static_cast<double>(x[t * place(in) + c]);
          ASSERT_NEAR(static_cast<double>(result[t * place(out) + row]), sum, 1e-5);
        }
    }
  }
}

TEST(TrellisFormat, CountsEveryBitAndHasABound) {
  const Encoding encoding = test::random_packed(test::TrellisShape{48, 96, 3});
  EXPECT_EQ(stored_bits(encoding), 48 * 96 * 3 + 32 * (3 + 2) + 32);
  EXPECT_EQ(nominal_bits(encoding), 3);
  float largest = 0;
  for (const float value : test::decoded(encoding)) largest = std::max(largest, std::fabs(value));
  EXPECT_LE(static_cast<double>(largest), encoding.format->decoded_bound(encoding));
  const Encoding tuned = test::random_packed(test::TrellisShape{48, 96, 3, 16, 0, true, core::DType::f16, true});
  EXPECT_EQ(stored_bits(tuned), stored_bits(encoding) + 16 * (48 + 96));
  for (const float value : test::decoded(tuned))
    ASSERT_LE(static_cast<double>(std::fabs(value)), tuned.format->decoded_bound(tuned));
}

TEST(TrellisFormat, WhatDoesNotFitIsNamed) {
  const auto problem = [](const std::function<void(Encoding&)>& change) {
    Encoding encoding = test::random_packed(test::TrellisShape{33, 20, 3});
    change(encoding);
    return find_problem(encoding);
  };
  const auto array = [](Encoding& e, const std::string& name) -> NamedArray& {
    return *std::find_if(e.arrays.begin(), e.arrays.end(), [&](const NamedArray& one) { return one.name == name; });
  };
  EXPECT_EQ(problem([](Encoding&) {}), "");
  EXPECT_THAT(problem([](Encoding& e) { e.attributes["bits"] = 6; }), StartsWith("bits is 6"));
  EXPECT_THAT(problem([](Encoding& e) { e.attributes["state_bits"] = 17; }), StartsWith("state_bits is 17"));
  EXPECT_THAT(problem([](Encoding& e) { e.attributes["code"] = 3; }), StartsWith("code is 3"));
  EXPECT_THAT(problem([](Encoding& e) { e.attributes["bits"] = 2; }), StartsWith("codes has 180 elements where 120"));
  EXPECT_THAT(problem([](Encoding& e) { e.out_features = 49; }), HasSubstr("codes has 180 elements where 240"));
  EXPECT_THAT(problem([](Encoding& e) { e.out_features = std::int64_t{1} << 40; }), HasSubstr("out_features"));
  EXPECT_THAT(problem([&](Encoding& e) { array(e, "out_signs").bytes[7] = std::byte{0x80}; }),
              HasSubstr("out_signs has bits past the last of 33"));
  EXPECT_THAT(problem([&](Encoding& e) { array(e, "scale").bytes[3] = std::byte{0xBD}; }), StartsWith("scale is -"));
  const auto with_factor = [&](const char* name, std::int64_t n, std::uint16_t last) {
    return problem([&](Encoding& e) {
      std::vector<std::uint16_t> values(place(n), 0x3C00);
      values.back() = last;
      const auto bytes = std::as_bytes(std::span(values));
      e.arrays.push_back({name, core::DType::f16, {n}, {bytes.begin(), bytes.end()}});
    });
  };
  EXPECT_EQ(with_factor("in_factor", 20, 0xFBFF), "");  // -65504: bounded by the sum of all, not here
  EXPECT_EQ(with_factor("out_factor", 33, 0), "");
  EXPECT_THAT(with_factor("in_factor", 20, 0x7E00), StartsWith("in_factor[19] is not finite"));
  EXPECT_THAT(with_factor("out_factor", 33, 0xFC00), StartsWith("out_factor[32] is not finite"));
  EXPECT_THAT(with_factor("out_factor", 32, 0), StartsWith("out_factor has 32 elements where 33"));
}

}  // namespace
}  // namespace voronoi::format
