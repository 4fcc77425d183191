#include "format/uniform_grid.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace voronoi::format {

UniformGrid UniformGrid::fit(float low, float high, float max_code, core::DType dtype) {
  low = std::min(low, 0.0F);
  high = std::max(high, 0.0F);
  if (low == 0.0F && high == 0.0F) {
    low = -1;
    high = 1;
  }
  UniformGrid grid;
  // Halves first: the difference of two large weights may overflow.
  grid.scale = core::round_to(dtype, 2.0F * ((0.5F * high - 0.5F * low) / max_code));
  const float smallest = dtype == core::DType::f32 ? std::numeric_limits<float>::min() : core::from_bits16(dtype, 1);
  if (grid.scale < smallest) grid.scale = smallest;
  if (!std::isfinite(grid.scale))
    grid.scale = dtype == core::DType::f32 ? std::numeric_limits<float>::max()
                                           : core::from_bits16(dtype, dtype == core::DType::f16 ? 0x7BFF : 0x7F7F);
  grid.zero = std::clamp(round_half_even(std::clamp(-low / grid.scale, 0.0F, max_code)), 0.0F, max_code);
  return grid;
}

}  // namespace voronoi::format
