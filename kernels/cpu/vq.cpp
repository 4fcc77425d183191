#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

constexpr std::int64_t kBlock = 1024;

float score(const float* x, const float* c, std::int64_t dim) {
  double half = 0;
  for (std::int64_t d = 0; d < dim; ++d) half += static_cast<double>(c[d]) * c[d];
  float s = static_cast<float>(0.5 * half);
  for (std::int64_t d = 0; d < dim; ++d) s = std::fma(-x[d], c[d], s);
  return s;
}

void nearest_m(const Exec& exec, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k, const float* centroids,
               const std::int32_t* valid_dims, std::int64_t m, std::int32_t* index) {
  VORONOI_REQUIRE(m >= 1 && m <= 16 && m <= k, "nearest_m: 1 <= m <= min(16, k)");
  exec.pool->parallel_for((n + kBlock - 1) / kBlock, [&](std::int64_t block) {
    for (std::int64_t i = block * kBlock; i < std::min(n, (block + 1) * kBlock); ++i) {
      const std::int64_t valid = valid_dims != nullptr ? valid_dims[i] : dim;
      float best[16];
      std::int64_t found = 0;
      std::int32_t* out = index + i * m;
      for (std::int64_t j = 0; j < k; ++j) {
        const float s = score(points + i * dim, centroids + j * dim, valid);
        if (found == m && !(s < best[m - 1])) continue;
        std::int64_t at = found < m ? found++ : m - 1;
        for (; at > 0 && s < best[at - 1]; --at) {
          best[at] = best[at - 1];
          out[at] = out[at - 1];
        }
        best[at] = s;
        out[at] = static_cast<std::int32_t>(j);
      }
    }
  });
}

void nearest(const Exec& exec, std::int64_t n, std::int64_t dim, const float* points, std::int64_t k, const float* centroids,
             const std::int32_t* valid_dims, std::int32_t* index, float* distance2) {
  nearest_m(exec, n, dim, points, k, centroids, valid_dims, 1, index);
  if (distance2 == nullptr) return;
  for (std::int64_t i = 0; i < n; ++i) {
    float sum = 0;
    for (std::int64_t d = 0; d < (valid_dims != nullptr ? valid_dims[i] : dim); ++d) {
      const float gap = points[i * dim + d] - centroids[index[i] * dim + d];
      sum = std::fma(gap, gap, sum);
    }
    distance2[i] = sum;
  }
}

void centroid_sums(std::int64_t n, std::int64_t dim, const float* points, const float* weights, const std::int32_t* index,
                   std::int64_t k, double* sums, double* mass) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t j = index[i];
    VORONOI_REQUIRE(j >= 0 && j < k, "centroid_sums: index outside the codebook");
    const double w = weights != nullptr ? static_cast<double>(weights[i]) : 1.0;
    for (std::int64_t d = 0; d < dim; ++d) sums[j * dim + d] += w * static_cast<double>(points[i * dim + d]);
    mass[j] += w;
  }
}

}  // namespace

VqKernels cpu_vq_kernels() { return {nearest, nearest_m, centroid_sums}; }

}  // namespace voronoi::kernels
