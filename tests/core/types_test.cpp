#include "core/types.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"

namespace voronoi::core {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
constexpr DType kAll[] = {DType::f64, DType::f32, DType::f16, DType::bf16, DType::u8,
                          DType::u16, DType::u32, DType::i32, DType::i64};

/// Value of a 16-bit float from its definition, in double (exact).
double by_definition(std::uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1)
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

TEST(DType, NamesAndSizesAreThoseOfSafetensors) {
  for (const DType dtype : kAll) EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
  EXPECT_EQ(dtype_name(DType::bf16), "BF16");
  EXPECT_EQ(dtype_name(DType::i64), "I64");
  EXPECT_EQ(dtype_from_name("F8_E4M3"), std::nullopt);
  EXPECT_EQ(dtype_from_name("f32"), std::nullopt);
  EXPECT_EQ(dtype_from_name(""), std::nullopt);
  const std::int64_t sizes[] = {8, 4, 2, 2, 1, 2, 4, 4, 8};
  for (std::size_t i = 0; i < 9; ++i) EXPECT_EQ(dtype_size(kAll[i]), sizes[i]);
}

TEST(Shape, IsPrintedInBrackets) {
  EXPECT_EQ(to_string(Shape{}), "[]");
  EXPECT_EQ(to_string(Shape{3}), "[3]");
  EXPECT_EQ(to_string(Shape{4096, 0, 11008}), "[4096, 0, 11008]");
}

TEST(CheckedArithmetic, NoticesOverflowAndNegativeFactors) {
  EXPECT_EQ(checked_multiply(std::int64_t{1} << 31, std::int64_t{1} << 31), std::int64_t{1} << 62);
  EXPECT_EQ(checked_multiply(std::int64_t{1} << 32, std::int64_t{1} << 31), std::nullopt);
  EXPECT_EQ(checked_multiply(kMax, 1), kMax);
  EXPECT_EQ(checked_multiply(kMax, 2), std::nullopt);
  EXPECT_EQ(checked_multiply(-1, 0), std::nullopt);
  EXPECT_EQ(checked_multiply(3, -1), std::nullopt);
  EXPECT_EQ(checked_multiply(0, kMax), 0);
  EXPECT_EQ(checked_add(kMax, 0), kMax);
  EXPECT_EQ(checked_add(kMax, 1), std::nullopt);
  EXPECT_EQ(checked_add(std::numeric_limits<std::int64_t>::min(), -1), std::nullopt);
  EXPECT_EQ(checked_add(-5, 3), -2);
}

TEST(CheckedArithmetic, ElementCountOfHostileShapes) {
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({3, 4, 5}), 60);
  EXPECT_EQ(element_count({7, 0}), 0);
  EXPECT_EQ(element_count({-1}), std::nullopt);
  EXPECT_EQ(element_count({0, -3}), std::nullopt);
  EXPECT_EQ(element_count({std::int64_t{1} << 32, std::int64_t{1} << 32}), std::nullopt);
  EXPECT_EQ(element_count({kMax, kMax, kMax}), std::nullopt);
}

TEST(CheckedArithmetic, CeilDivRoundsUp) {
  EXPECT_EQ(ceil_div(0, 4), 0);
  EXPECT_EQ(ceil_div(1, 4), 1);
  EXPECT_EQ(ceil_div(4, 4), 1);
  EXPECT_EQ(ceil_div(5, 4), 2);
}

TEST(HalfFloat, EveryBitPatternHasItsDefinedValueAndComesBack) {
  for (int i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const double half = by_definition(bits, 5, 10), brain = by_definition(bits, 8, 7);
    if (std::isnan(half)) {
      ASSERT_TRUE(std::isnan(half_to_float(bits)) && std::isnan(half_to_float(float_to_half(half_to_float(bits)))))
          << i;
    } else {
      ASSERT_EQ(static_cast<double>(half_to_float(bits)), half) << i;
      ASSERT_EQ(float_to_half(half_to_float(bits)), bits) << i;
    }
    if (std::isnan(brain)) {
      ASSERT_TRUE(std::isnan(bfloat_to_float(bits)) &&
                  std::isnan(bfloat_to_float(float_to_bfloat(bfloat_to_float(bits)))))
          << i;
    } else {
      ASSERT_EQ(static_cast<double>(bfloat_to_float(bits)), brain) << i;
      ASSERT_EQ(float_to_bfloat(bfloat_to_float(bits)), bits) << i;
    }
  }
}

/// Between two neighbours of the type the nearer is taken, and the even one in the middle; one step off the middle
/// decides.
TEST(HalfFloat, RoundsToNearestEven) {
  const auto check = [](int exponent_bits, int mantissa_bits, auto round) {
    const int infinity = ((1 << exponent_bits) - 1) << mantissa_bits;
    for (int i = 0; i + 1 < infinity; ++i) {
      const auto low = static_cast<std::uint16_t>(i), high = static_cast<std::uint16_t>(i + 1);
      const auto middle = static_cast<float>(
          (by_definition(low, exponent_bits, mantissa_bits) + by_definition(high, exponent_bits, mantissa_bits)) / 2);
      ASSERT_EQ(round(middle), (i & 1) != 0 ? high : low) << i;
      ASSERT_EQ(round(std::nextafter(middle, 0.0F)), low) << i;
      ASSERT_EQ(round(std::nextafter(middle, std::numeric_limits<float>::infinity())), high) << i;
      ASSERT_EQ(round(-middle), ((i & 1) != 0 ? high : low) | 0x8000) << i;
    }
  };
  check(5, 10, float_to_half);
  check(8, 7, float_to_bfloat);
}

TEST(HalfFloat, OverflowBecomesInfinityAndNanStays) {
  EXPECT_EQ(float_to_half(65504.0F), 0x7BFF);
  EXPECT_EQ(float_to_half(65519.99F), 0x7BFF);
  EXPECT_EQ(float_to_half(65520.0F), 0x7C00);
  EXPECT_EQ(float_to_half(-1e30F), 0xFC00);
  EXPECT_EQ(float_to_bfloat(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_EQ(float_to_bfloat(-std::numeric_limits<float>::infinity()), 0xFF80);
  // A NaN whose upper half alone would read as infinity.
  const float nan = std::bit_cast<float>(std::uint32_t{0x7F800001});
  EXPECT_TRUE(std::isnan(bfloat_to_float(float_to_bfloat(nan))));
  EXPECT_TRUE(std::isnan(half_to_float(float_to_half(nan))));
}

TEST(HalfFloat, ChoiceByTypeIsTheSameAndRefusesOthers) {
  EXPECT_EQ(to_bits16(DType::f16, 1.5F), float_to_half(1.5F));
  EXPECT_EQ(to_bits16(DType::bf16, 1.5F), float_to_bfloat(1.5F));
  EXPECT_EQ(from_bits16(DType::f16, 0x3C00), 1.0F);
  EXPECT_EQ(from_bits16(DType::bf16, 0x3F80), 1.0F);
  EXPECT_EQ(round_to(DType::f32, 0.1F), 0.1F);
  EXPECT_EQ(round_to(DType::bf16, 1.00390625F), 1.0F);
  EXPECT_EQ(round_to(DType::f16, 2049.0F), 2048.0F);
  EXPECT_THROW(to_bits16(DType::u16, 1.0F), InternalError);
  EXPECT_THROW(from_bits16(DType::f32, 1), InternalError);
  EXPECT_THROW(round_to(DType::f64, 1.0F), InternalError);
}

TEST(ConvertToF32, ReadsEveryFloatTypeAtAnyAlignment) {
  const double doubles[] = {1.5, -2.25, 0.1};
  unsigned char bytes[1 + sizeof doubles];
  float out[3] = {};
  std::memcpy(bytes + 1, doubles, sizeof doubles);
  convert_to_f32(DType::f64, bytes + 1, 3, out);
  EXPECT_EQ(out[0], 1.5F);
  EXPECT_EQ(out[1], -2.25F);
  EXPECT_EQ(out[2], 0.1F);
  const float floats[] = {3.5F, -0.0F, 1e-40F};
  std::memcpy(bytes + 1, floats, sizeof floats);
  convert_to_f32(DType::f32, bytes + 1, 3, out);
  EXPECT_EQ(std::memcmp(out, floats, sizeof floats), 0);
  const std::uint16_t halves[] = {0x3C00, 0xC000, 0x0001};
  std::memcpy(bytes + 1, halves, sizeof halves);
  convert_to_f32(DType::f16, bytes + 1, 3, out);
  EXPECT_EQ(out[0], 1.0F);
  EXPECT_EQ(out[1], -2.0F);
  EXPECT_EQ(out[2], 0x1p-24F);
  convert_to_f32(DType::bf16, bytes + 1, 2, out);
  EXPECT_EQ(out[0], 0.0078125F);
  EXPECT_EQ(out[1], -2.0F);
}

TEST(ConvertToF32, NothingToDoTouchesNothingAndIntegersAreRefused) {
  convert_to_f32(DType::f32, nullptr, 0, nullptr);
  const std::int32_t one = 1;
  float out;
  EXPECT_THROW(convert_to_f32(DType::i32, &one, 1, &out), InternalError);
}

}  // namespace
}  // namespace voronoi::core
