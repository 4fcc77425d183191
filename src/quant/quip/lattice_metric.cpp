#include <algorithm>
#include <array>
#include <string>

#include "backend/device.h"
#include "core/error.h"
#include "core/index.h"
#include "core/types.h"
#include "quant/quip/lattice_codes.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr std::size_t kBlockSize = index(kLatticeDim);
using Block = std::array<std::array<double, kBlockSize>, kBlockSize>;

/// The inverse of a symmetric positive definite matrix of order m, by elimination without exchanges.
Block inverse_of(Block a, std::size_t m) {
  Block inverse{};
  for (std::size_t i = 0; i < m; ++i) inverse[i][i] = 1;
  for (std::size_t p = 0; p < m; ++p) {
    const double pivot = 1 / a[p][p];
    for (std::size_t j = 0; j < m; ++j) {
      a[p][j] *= pivot;
      inverse[p][j] *= pivot;
    }
    for (std::size_t i = 0; i < m; ++i) {
      if (i == p) continue;
      const double by = a[i][p];
      for (std::size_t j = 0; j < m; ++j) {
        a[i][j] -= by * a[p][j];
        inverse[i][j] -= by * inverse[p][j];
      }
    }
  }
  return inverse;
}

/// Rows of a Cholesky factor, each panel of 8 columns times the inverse of its diagonal block.
void take_feedback(core::ThreadPool& pool, std::int64_t n, const std::vector<double>& factor,
                   std::vector<float>& feedback) {
  const std::int64_t n_blocks = core::ceil_div(n, kLatticeDim);
  // Inverses of the diagonal blocks, lower triangular.
  std::vector<Block> inverses(index(n_blocks));
  for (std::int64_t k = 0; k < n_blocks; ++k) {
    const std::int64_t first = k * kLatticeDim;
    const std::size_t m = index(std::min(kLatticeDim, n - first));
    const auto at = [&](std::size_t i, std::size_t j) {
      return factor[index((first + static_cast<std::int64_t>(i)) * n + first + static_cast<std::int64_t>(j))];
    };
    Block& inverse = inverses[index(k)];
    inverse = {};
    for (std::size_t j = 0; j < m; ++j) {
      inverse[j][j] = 1 / at(j, j);
      for (std::size_t i = j + 1; i < m; ++i) {
        double sum = 0;
        for (std::size_t p = j; p < i; ++p) sum += at(i, p) * inverse[p][j];
        inverse[i][j] = -sum / at(i, i);
      }
    }
  }
  feedback.assign(index(n * n), 0.0F);
  pool.parallel_for(n_blocks, [&](std::int64_t block) {
    for (std::int64_t row = block * kLatticeDim; row < std::min(n, (block + 1) * kLatticeDim); ++row)
      for (std::int64_t k = 0; k < block; ++k) {
        const double* from = factor.data() + row * n + k * kLatticeDim;
        float* to = feedback.data() + row * n + k * kLatticeDim;
        const Block& inverse = inverses[index(k)];
        for (std::size_t j = 0; j < kBlockSize; ++j) {
          double sum = 0;
          for (std::size_t i = j; i < kBlockSize; ++i) sum += from[i] * inverse[i][j];
          to[j] = static_cast<float>(sum);
        }
      }
  });
}

}  // namespace

LatticeMetric lattice_metric(core::ThreadPool& pool, std::int64_t n, std::span<const float> h, double damping,
                             double sweep_damping) {
  VORONOI_REQUIRE(n > 0 && std::ssize(h) == n * n, "a metric is [n, n]");
  const kernels::Exec host{&pool, nullptr};
  LatticeMetric metric;
  metric.n = n;
  metric.h = h;
  double mean = 0;
  for (std::int64_t i = 0; i < n; ++i) mean += static_cast<double>(h[index(i * (n + 1))]) / static_cast<double>(n);
  {
    std::vector<double> factor(h.size());
    for (metric.feedback_damping = damping;;
         metric.feedback_damping = std::max(10 * metric.feedback_damping, 1e-4 * mean)) {
      std::copy(h.begin(), h.end(), factor.begin());
      for (std::int64_t i = 0; i < n; ++i) factor[index(i * (n + 1))] += metric.feedback_damping;
      if (kernels::cpu().linalg.cholesky_lower_f64(host, n, factor.data(), n) == 0) break;
      if (!(metric.feedback_damping < mean))
        throw core::NumericError(
            "the Hessian does not factor even with its mean diagonal added; calibrate again with "
            "more text");
    }
    take_feedback(pool, n, factor, metric.feedback);
  }
  metric.sweep_damping = std::max(sweep_damping, metric.feedback_damping);
  const std::int64_t n_blocks = core::ceil_div(n, kLatticeDim);
  metric.inverse.assign(index(n_blocks) * kBlockSize * kBlockSize, 0.0F);
  for (std::int64_t k = 0; k < n_blocks; ++k) {
    const std::int64_t first = k * kLatticeDim;
    const std::size_t m = index(std::min(kLatticeDim, n - first));
    Block block{};
    for (std::size_t i = 0; i < m; ++i)
      for (std::size_t j = 0; j < m; ++j)
        block[i][j] = static_cast<double>(
                          h[index((first + static_cast<std::int64_t>(i)) * n + first + static_cast<std::int64_t>(j))]) +
                      (i == j ? metric.sweep_damping : 0);
    const Block inverse = inverse_of(block, m);
    for (std::size_t i = 0; i < m; ++i)
      for (std::size_t j = 0; j < m; ++j)
        metric.inverse[(index(k) * kBlockSize + i) * kBlockSize + j] = static_cast<float>(inverse[i][j]);
  }
  return metric;
}

}  // namespace voronoi::quant
