// Entry points of the CUDA twin of kernels/vq.h, each defined beside its like.
#pragma once

#include "kernels/vq.h"

namespace voronoi::kernels::gpu {

void nearest(const Exec& exec, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
             const float* centroids, const std::int32_t* valid_dims, std::int32_t* index, float* distance2);
void nearest_from(const Exec& exec, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
                  const float* centroids, std::int32_t* index, float* distance2);
void nearest_m(const Exec& exec, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k,
               const float* centroids, const std::int32_t* valid_dims, std::int64_t m, std::int32_t* index);
void centroid_sums(const Exec& exec, std::int64_t n_chunks, const std::int64_t* chunk_begin, std::int64_t dim,
                   const float* points, const float* weights, const std::int32_t* index, const float* distance2,
                   std::int64_t k, bool combined, double* sums);

}  // namespace voronoi::kernels::gpu
