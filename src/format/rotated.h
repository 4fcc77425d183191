// What the formats share whose matrices stand between two rotations.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "format/hadamard.h"
#include "kernels/rotation.h"

namespace voronoi::format {

/// The rotation of a side without its factor; of n = 0 where there are no signs. put(array) gives the address where
/// kernels read it.
template <class Put>
kernels::Rotation put_rotation(std::int64_t n, std::span<const std::uint32_t> signs, const Put& put) {
  if (signs.empty()) return {};
  kernels::Rotation rotation = rotation_extents(n);
  rotation.signs = put(signs);
  return rotation;
}

/// Of signs of n coordinates, or none: their number, and bits past the last coordinate.
std::string signs_problem(const char* array, std::int64_t n, std::span<const std::uint32_t> signs);

/// Weights are at most as large as those of F16, and so is their root mean square.
std::string scale_problem(float scale);

}  // namespace voronoi::format
