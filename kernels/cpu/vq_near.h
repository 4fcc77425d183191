// Nearest centroids of points that come with one near them. A point x, u from its centroid c, is no nearer to any c'
// further than 2u from c. So points are taken cell by cell (a cell: those of one centroid), the centroids in reach of a
// cell are listed, and those of them that a few points of about the same u need are scored: as kernels/cpu/vq_simd.h
// scores them, in order of index, with room in the bounds for what the scores are rounded by. So the choice is that of
// a scan of all centroids, to the bit.
#pragma once

#include <cstdint>

#include "kernels/cpu/vq_simd.h"

namespace voronoi::kernels::vq {

inline constexpr std::int64_t kMostNearDims = 8;

/// The centroids twice: in panels, and row by row [k, dim + 1] with the half norm behind each.
struct NearBook {
  Panels panels;
  const float* rows = nullptr;
};

/// Of points [begin, end), those that came with a centroid of [first, last).
struct NearRange {
  std::int64_t begin = 0, end = 0;
  std::int64_t first = 0, last = 0;
};

/// found and distance2 of the points of a range as nearest_block finds them, from points [*, dim] and the `index` they
/// came with. Points and centroids are finite and at most 1e15; dim <= kMostNearDims.
void search_near(const NearBook& book, const NearRange& range, const float* points, const std::int32_t* index,
                 std::int32_t* found, float* distance2);

}  // namespace voronoi::kernels::vq
