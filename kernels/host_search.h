// Nearest centroids on the host, whatever the device is: for methods whose passes run there. See vq.h for the entry
// points of devices, which take points row by row and pack the centroids at every call.
#pragma once

#include <cstdint>

namespace voronoi::kernels {

/// Points that nearest_by_column takes at a time; columns are padded to a multiple.
inline constexpr std::int64_t kHostLanes = 16;
constexpr std::int64_t host_lanes(std::int64_t n) { return (n + kHostLanes - 1) / kHostLanes * kHostLanes; }

/// index[i] = the lowest j with the least |c_j|^2 / 2 - x_i . c_j for points by column, x [dim, stride], and centroids
/// by column with half their squared norms below them, book [dim + 1, k]. dim is 1, 2, 4, 8 or 16. Takes n rounded up
/// to kHostLanes points, all of which must be there and finite, and writes as many indices. The score starts from the
/// half norm and takes one fused multiply-subtract a dimension in rising order: the same choice at every vector width.
/// Nothing is said of values that are not finite, but that every index is in range.
void nearest_by_column(std::int64_t n, std::int64_t dim, const float* x, std::int64_t stride, std::int64_t k,
                       const float* book, std::int32_t* index);

}  // namespace voronoi::kernels
