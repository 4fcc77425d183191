// What a quantized linear takes: the elements of its stored arrays, from its extents alone. One arithmetic for stored
// encodings, their checks, and plans.
#pragma once

#include <cstdint>

#include "quant/encoding.h"

namespace voronoi::quant {

/// Elements due in the arrays of a VqEncoding with these extents.
struct VqElements {
  std::int64_t indices = 0;  ///< of 32 bits, padding included
  std::int64_t codebook = 0, residual_codebook = 0, outlier_codebook = 0, outlier_indices = 0, scale = 0, bias = 0,
               perm = 0;  ///< of 16 bits
  std::int64_t bits() const;
};

/// Elements due in the arrays of a UniformEncoding with these extents.
struct UniformElements {
  std::int64_t codes = 0, zeros = 0;  ///< of 32 bits, padding included
  std::int64_t scale = 0, perm = 0;   ///< of 16 bits
  std::int64_t bits() const;
};

/// Looks at the extents alone, which must be valid; with_perm: whether the column order is stored.
VqElements elements_due(const VqEncoding& extents, bool with_perm);
UniformElements elements_due(const UniformEncoding& extents, bool with_perm);

}  // namespace voronoi::quant
