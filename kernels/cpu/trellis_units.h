// Units of 16 rows of a linear in trellis codes: decoded, and multiplied.
#pragma once

#include <cstdint>

#include "kernels/trellis.h"

namespace voronoi::kernels::trellis {

/// The strings of a unit. Column c has the words[c * bits ..] of the unit, and words_before[c * bits] stands before
/// them in the circle.
struct UnitCodes {
  UnitCodes(const PackedTrellis& packed, std::int64_t unit);

  const float* table;  ///< value of a state
  bool mul1;           ///< the code is TrellisCode::mul1
  int bits;
  std::uint32_t mask;  ///< of a state
  std::int64_t n_columns;
  const std::uint16_t *words, *words_before;
};

/// Columns first .. first + count - 1: values [count, kTrellisUnit].
void decode_columns(const UnitCodes& codes, std::int64_t first, std::int64_t count, float* values);

/// sums [n_tokens, kTrellisUnit] = tokens [n_tokens, n_columns] times the unit's values. Every fourth column is summed
/// by itself, and the four sums are added in the end.
void multiply_unit(const UnitCodes& codes, std::int64_t n_tokens, const float* tokens, float* sums);

}  // namespace voronoi::kernels::trellis
