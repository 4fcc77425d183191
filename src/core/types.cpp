#include "core/types.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace voronoi::core {
namespace {

struct DTypeInfo {
  DType dtype;
  std::int64_t size;
  std::string_view name;
};

constexpr std::array<DTypeInfo, 9> kDTypes{{{DType::f64, 8, "F64"},
                                            {DType::f32, 4, "F32"},
                                            {DType::f16, 2, "F16"},
                                            {DType::bf16, 2, "BF16"},
                                            {DType::u8, 1, "U8"},
                                            {DType::u16, 2, "U16"},
                                            {DType::u32, 4, "U32"},
                                            {DType::i32, 4, "I32"},
                                            {DType::i64, 8, "I64"}}};

const DTypeInfo& info(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)]; }

}  // namespace

std::int64_t dtype_size(DType dtype) { return info(dtype).size; }

std::string_view dtype_name(DType dtype) { return info(dtype).name; }

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DTypeInfo& entry : kDTypes)
    if (entry.name == name) return entry.dtype;
  return std::nullopt;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::optional<std::int64_t> checked_multiply(std::int64_t a, std::int64_t b) {
  std::int64_t product;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

std::optional<std::int64_t> checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

std::optional<std::int64_t> element_count(const Shape& shape) {
  std::int64_t count = 1;
  for (std::int64_t dimension : shape) {
    const auto product = checked_multiply(count, dimension);
    if (!product) return std::nullopt;
    count = *product;
  }
  return count;
}

// Not with _Float16, which not every compiler has on every machine; the same bits. Exponents of the two types lie 112
// apart.
float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16, magnitude = (bits & 0x7FFFU) << 13;
  constexpr std::uint32_t kInfinity = 0x7C00U << 13, kQuiet = 0x00400000U;
  if (magnitude >= kInfinity)
    return std::bit_cast<float>(sign | 0x7F800000U | magnitude | (magnitude > kInfinity ? kQuiet : 0U));
  const float value = std::bit_cast<float>(magnitude) * 0x1p112F;  // exact, subnormals too
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
}

std::uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits & 0x80000000U) >> 16, magnitude = bits & 0x7FFFFFFFU;
  constexpr std::uint32_t kOverflow = 0x477FF000U;  // 65520, halfway to 65536
  constexpr std::uint32_t kNormal = 0x38800000U;    // 2^-14
  std::uint32_t half;
  if (magnitude > 0x7F800000U)
    half = 0x7E00U | (magnitude >> 13 & 0x3FFU);
  else if (magnitude >= kOverflow)
    half = 0x7C00U;
  else if (magnitude < kNormal)  // multiples of 2^-24, the spacing of floats in [0.5, 1)
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3F000000U;
  else
    half = (magnitude + 0xFFFU + (magnitude >> 13 & 1U) - (112U << 23)) >> 13;
  return static_cast<std::uint16_t>(sign | half);
}

std::uint16_t float_to_bfloat(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16) | 0x0040U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

std::uint16_t to_bits16(DType dtype, float value) {
  VORONOI_REQUIRE(dtype == DType::f16 || dtype == DType::bf16, "a 16-bit float type is wanted");
  return dtype == DType::f16 ? float_to_half(value) : float_to_bfloat(value);
}

float from_bits16(DType dtype, std::uint16_t bits) {
  VORONOI_REQUIRE(dtype == DType::f16 || dtype == DType::bf16, "a 16-bit float type is wanted");
  return dtype == DType::f16 ? half_to_float(bits) : bfloat_to_float(bits);
}

float round_to(DType dtype, float value) {
  if (dtype == DType::f32) return value;
  return from_bits16(dtype, to_bits16(dtype, value));
}

void convert_to_f32(DType dtype, const void* bytes, std::int64_t n, float* out) {
  const auto* source = static_cast<const unsigned char*>(bytes);
  if (n == 0) return;
  switch (dtype) {
    case DType::f32:
      std::memcpy(out, source, static_cast<std::size_t>(n) * sizeof(float));
      return;
    case DType::f16:
    case DType::bf16:
      for (std::int64_t i = 0; i < n; ++i) {
        std::uint16_t bits;
        std::memcpy(&bits, source + 2 * i, sizeof bits);
        out[i] = dtype == DType::f16 ? half_to_float(bits) : bfloat_to_float(bits);
      }
      return;
    case DType::f64:
      for (std::int64_t i = 0; i < n; ++i) {
        double value;
        std::memcpy(&value, source + 8 * i, sizeof value);
        out[i] = static_cast<float>(value);
      }
      return;
    default:
      throw InternalError("convert_to_f32: " + std::string(dtype_name(dtype)) + " is not a float type");
  }
}

}  // namespace voronoi::core
