// What RTN and GPTQ share: the asymmetric min-max grid of a group and the codes of whole rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/team.h"
#include "core/types.h"
#include "format/uniform.h"
#include "quant/quantizer.h"

namespace voronoi::quant {

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

/// Codes of a range of rows, processing order.
struct UniformCodes {
  std::vector<std::uint16_t> codes;  ///< [rows, in]
  std::vector<float> scale;          ///< [rows, n_groups]
  std::vector<std::uint16_t> zeros;  ///< [rows, n_groups]
};

/// Columns a group in effect: group_size <= 0 or beyond the row means one group a row.
constexpr std::int64_t effective_group_size(std::int64_t group_size, std::int64_t in_features) {
  return group_size <= 0 || group_size >= in_features ? in_features : group_size;
}

/// Rows [begin, end) of a team member: whole tiles, so that a tile's arithmetic does not depend on the team.
struct RowRange {
  std::int64_t begin = 0, end = 0;
};
inline constexpr std::int64_t kRowTile = 128;
RowRange team_rows(const core::Team& team, std::int64_t out_features);

/// Packs this member's rows (team_rows) and gathers everyone's. Collective.
format::UniformEncoding gather_encoding(core::Team& team, const QuantInput& input, int bits, std::int64_t group_size,
                                        const std::vector<std::uint16_t>& perm, const UniformCodes& mine);

/// relative_hessian_error of the decoded encoding.
double encoding_error(backend::Context& context, const QuantInput& input, const format::Encoding& encoding);

/// Throws InternalError unless extents, weight and Hessian of the input fit each other.
void check_input(const QuantInput& input);

}  // namespace voronoi::quant
