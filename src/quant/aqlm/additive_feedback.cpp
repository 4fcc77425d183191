#include "quant/aqlm/additive_feedback.h"

#include <algorithm>

#include "backend/device.h"
#include "core/index.h"

namespace voronoi::quant {

using core::index;

std::vector<float> feedback_metric(core::ThreadPool& pool, std::int64_t n, std::int64_t group,
                                   std::span<const float> hessian) {
  std::vector<double> factor(hessian.begin(), hessian.end());
  if (kernels::cpu().linalg.cholesky_lower_f64({&pool, nullptr}, n, factor.data(), n) != 0) return {};
  std::vector<float> metric(hessian.size(), 0.0F);
  pool.parallel_for(n / group, [&](std::int64_t k) {
    const std::int64_t first = k * group;
    for (std::int64_t row = first; row < n; ++row)
      for (std::int64_t a = 0; a < group; ++a) {
        // Above the diagonal nothing is said of what stands there.
        const std::int64_t last = std::min(a, row - first);
        double sum = 0;
        for (std::int64_t i = 0; i <= last; ++i)
          sum += factor[index(row * n + first + i)] * factor[index((first + a) * n + first + i)];
        metric[index(row * n + first + a)] = static_cast<float>(sum);
      }
  });
  return metric;
}

}  // namespace voronoi::quant
