// Sums of a k-means step.
#include <algorithm>
#include <vector>

#include "kernels/cuda/part_sums.cuh"
#include "kernels/cuda/vq_family.h"

namespace voronoi::kernels::gpu {
namespace {

constexpr std::int64_t kPiecePoints = 8192;

/// Points by chunk and centroid: value d < dim is w x_d, the last is w.
struct Clusters {
  std::int64_t n_parts, dim, k, size, begin;
  const std::int64_t* chunk_begin;
  const float* points;
  const float* weights;
  const std::int32_t* index;
  int n_values;

  __device__ std::uint32_t key(std::int64_t i) const {
    // Last chunk that begins at or before the point; empty ones share their beginning with the next.
    std::int64_t low = 0, high = n_parts;
    while (high - low > 1) {
      const std::int64_t middle = (low + high) / 2;
      if (chunk_begin[middle] <= begin + i)
        low = middle;
      else
        high = middle;
    }
    return static_cast<std::uint32_t>(index[begin + i] * n_parts + low);
  }
  __device__ double value(std::int32_t i, int d) const {
    const double w = static_cast<double>(weights[begin + i]);
    return d < dim ? w * static_cast<double>(points[(begin + i) * dim + d]) : w;
  }
  __device__ std::int64_t place(std::int64_t part, std::int64_t entry, int d) const {
    return part * size + (d < dim ? entry * dim + d : k * dim + entry);
  }
};

struct Objective {
  const std::int64_t* chunk_begin;
  const float* weights;
  const float* distance2;

  __device__ std::int64_t pieces(std::int64_t chunk) const {
    return (chunk_begin[chunk + 1] - chunk_begin[chunk] + kPiecePoints - 1) / kPiecePoints;
  }
  __device__ double partial(std::int64_t chunk, std::int64_t piece) const {
    const std::int64_t begin = chunk_begin[chunk] + piece * kPiecePoints, end = chunk_begin[chunk + 1];
    double sum = 0;
    for (std::int64_t i = begin + threadIdx.x; i < end && i < begin + kPiecePoints; i += kSumThreads)
      sum += static_cast<double>(weights[i]) * static_cast<double>(distance2[i]);
    return sum;
  }
};

}  // namespace

void centroid_sums(const Exec& exec, std::int64_t n_chunks, const std::int64_t* chunk_begin, std::int64_t dim,
                   const float* points, const float* weights, const std::int32_t* index, const float* distance2,
                   std::int64_t k, bool combined, double* sums) {
  VORONOI_REQUIRE(n_chunks >= 0 && dim >= 1 && k >= 1, "centroid_sums: n_chunks >= 0, dim >= 1, k >= 1");
  Native& open = native(exec);
  const std::int64_t size = k * (dim + 1) + 1;
  if (n_chunks == 0) {
    if (combined) add_parts(open, 0, size, nullptr, sums);
    return;
  }
  const Scratch<std::int64_t> begin(open, n_chunks + 1);
  copy_in(open, chunk_begin, (n_chunks + 1) * std::int64_t{sizeof(std::int64_t)}, begin.data());
  std::int64_t max_pieces = 1;
  for (std::int64_t c = 0; c < n_chunks; ++c)
    max_pieces = std::max(max_pieces, core::ceil_div(chunk_begin[c + 1] - chunk_begin[c], kPiecePoints));
  sum_parts(open, n_chunks, size, combined, sums, [&](double* parts) {
    const Clusters clusters{n_chunks,     dim,    k,       size,  chunk_begin[0],
                            begin.data(), points, weights, index, static_cast<int>(dim + 1)};
    sum_by_key(open, clusters, chunk_begin[n_chunks] - chunk_begin[0], k, parts);
    sum_of_parts(open, Objective{begin.data(), weights, distance2}, n_chunks, max_pieces, size, parts + size - 1);
  });
}

}  // namespace voronoi::kernels::gpu
