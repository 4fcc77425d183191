// The asymmetric grid of a group of weights in uniform codes.
#pragma once

#include "core/types.h"

namespace voronoi::format {

/// w = scale * (code - zero), codes 0 .. max_code.
struct UniformGrid {
  float scale = 1;
  float zero = 0;  ///< a whole number

  /// Grid whose range holds low, high and 0. The scale is rounded to `dtype` (f16, bf16 or f32) before zero is chosen,
  /// so that codes are found on the numbers that will be decoded.
  static UniformGrid fit(float low, float high, float max_code, core::DType dtype);
  float code(float value, float max_code) const;
  float value(float code) const { return scale * (code - zero); }
};

/// Whole number nearest to value, halves to even; |value| < 2^22.
inline float round_half_even(float value) { return (value + 0x1.8p23F) - 0x1.8p23F; }

inline float UniformGrid::code(float value, float max_code) const {
  // Bounded first: round_half_even is exact within 2^22 alone. NaN cannot occur (weights are finite, scale is
  // positive).
  const float raw = value / scale;
  const float bounded = raw < -65536.0F ? -65536.0F : raw > 65536.0F ? 65536.0F : raw;
  const float shifted = round_half_even(bounded) + zero;
  return shifted < 0.0F ? 0.0F : shifted > max_code ? max_code : shifted;
}

}  // namespace voronoi::format
