// Groups of a linear's outputs that feel an error of an input token apart: each has a guided Hessian of its own
// (GuidedQuant, arXiv 2505.07004).
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/types.h"

namespace voronoi::calib {

/// Groups begin at multiples of so many rows, whole vectors of most lengths. Which length a linear is quantized with is
/// not known when its Hessians are made, nor the same for all that take them: who has another one moves a boundary by
/// less than half a vector.
inline constexpr std::int64_t kGroupRowUnit = 16;

/// Groups of a linear where `wanted` are asked for: each has a row.
constexpr std::int64_t n_row_groups(std::int64_t out_features, std::int64_t wanted) {
  return std::clamp<std::int64_t>(core::ceil_div(out_features, kGroupRowUnit), 1, wanted);
}

/// First row of a group, they are consecutive and as equal as can be; of group n_row_groups the end.
constexpr std::int64_t row_group_begin(std::int64_t out_features, std::int64_t wanted, std::int64_t group) {
  const std::int64_t units = core::ceil_div(out_features, kGroupRowUnit);
  return std::min(out_features, units * group / n_row_groups(out_features, wanted) * kGroupRowUnit);
}

}  // namespace voronoi::calib
