// What moving codes towards a dense weight has in common in all formats. Host memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace voronoi::format {

/// An index into a container, of one that may be computed with.
inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// The ceil(share * n) of n vectors with the largest distance, rising; of equal ones the first. Those whose distance is
/// 0 or not finite are left out.
std::vector<std::int64_t> farthest(std::span<const float> distances, double share);

}  // namespace voronoi::format
