// Element types, half-precision conversion and overflow-checked size arithmetic.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace voronoi::core {

enum class DType : std::uint8_t { f64, f32, f16, bf16, u8, u16, u32, i32, i64 };

/// Bytes of one element.
std::int64_t dtype_size(DType dtype);
/// "F32", "BF16", ...: the spelling of safetensors.
std::string_view dtype_name(DType dtype);
std::optional<DType> dtype_from_name(std::string_view name);

using Shape = std::vector<std::int64_t>;
std::string to_string(const Shape& shape);

/// a * b, or nothing on overflow or a negative factor.
std::optional<std::int64_t> checked_multiply(std::int64_t a, std::int64_t b);
std::optional<std::int64_t> checked_add(std::int64_t a, std::int64_t b);
/// Number of elements; nothing when a dimension is negative or the product overflows.
std::optional<std::int64_t> element_count(const Shape& shape);

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Largest finite magnitude of F16.
inline constexpr float kLargestF16 = 65504.0F;

// IEEE half and bfloat16 as raw bits; round to nearest even; NaN stays NaN, overflow becomes infinity.
float half_to_float(std::uint16_t bits);
std::uint16_t float_to_half(float value);
inline float bfloat_to_float(std::uint16_t bits);
std::uint16_t float_to_bfloat(float value);

/// value rounded to `dtype` (f16, bf16 or f32) and back.
float round_to(DType dtype, float value);
/// Bits of value in a 16-bit float type (f16 or bf16), and back.
std::uint16_t to_bits16(DType dtype, float value);
float from_bits16(DType dtype, std::uint16_t bits);

/// n elements of a float type (f64, f32, f16, bf16) at `bytes` (any alignment) widened or narrowed to float.
void convert_to_f32(DType dtype, const void* bytes, std::int64_t n, float* out);

inline float bfloat_to_float(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  __builtin_memcpy(&value, &wide, sizeof value);
  return value;
}

}  // namespace voronoi::core
