// Damping and factoring of a site's second moment (GPTQ, Frantar et al. 2023; act-order and factor as VPTQ uses them).
#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>

#include "backend/tensor.h"
#include "core/error.h"
#include "quant/quantizer.h"

namespace voronoi::quant {
namespace {

constexpr double kDeadShare = 0.01;     // a dead column's diagonal, as a share of the mean diagonal
constexpr double kFirstDamping = 1e-4;  // where raising starts from when no damping was asked for
constexpr double kLastDamping = 1.0;

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

/// Both triangles of the packed lower one; every value is looked at, so that no NaN gets further.
std::vector<float> unpack_symmetric(backend::Context& context, std::int64_t n, std::span<const float> lower) {
  for (std::int64_t row = 0; row < n; ++row) {
    const float* values = lower.data() + row * (row + 1) / 2;
    for (std::int64_t column = 0; column <= row; ++column)
      if (!std::isfinite(values[column]))
        throw core::NumericError("the Hessian is not finite: row " + std::to_string(row) + ", column " +
                                 std::to_string(column) + " is " + std::to_string(values[column]) +
                                 "; the activations overflowed or the calibration data are damaged");
    if (values[row] < 0)
      throw core::NumericError("the Hessian is no second moment: its diagonal at row " + std::to_string(row) + " is " +
                               std::to_string(values[row]));
  }
  std::vector<float> full(index(n * n));
  constexpr std::int64_t kTile = 64;  // square tiles: the mirrored half is written a cache line at a time
  const std::int64_t tiles = core::ceil_div(n, kTile);
  context.pool().parallel_for(tiles, [&](std::int64_t tile_row) {
    const std::int64_t row_end = std::min(n, (tile_row + 1) * kTile);
    for (std::int64_t tile_column = 0; tile_column <= tile_row; ++tile_column)
      for (std::int64_t row = tile_row * kTile; row < row_end; ++row) {
        const float* values = lower.data() + row * (row + 1) / 2;
        const std::int64_t column_end = std::min(row + 1, (tile_column + 1) * kTile);
        for (std::int64_t column = tile_column * kTile; column < column_end; ++column)
          full[index(row * n + column)] = full[index(column * n + row)] = values[column];
      }
  });
  return full;
}

/// Factors P (H + damping_value I) P^T. With J the reversal, A = J P H P^T J = L L^T gives (P H P^T)^-1 = U^T U for the
/// upper U = J L^-1 J. Nothing when it is not positive definite in fp64 or the factor is not finite in fp32.
std::optional<std::vector<float>> factor(backend::Context& context, const PreparedHessian& hessian,
                                         double damping_value) {
  const std::int64_t n = hessian.n;
  backend::Array<double> work(context, n * n);
  const bool on_host = context.device() == backend::Device::cpu;
  std::vector<double> staging(on_host ? 0 : index(n * n));
  double* host = on_host ? work.data() : staging.data();
  context.pool().parallel_for(n, [&](std::int64_t row) {
    const std::int64_t source_row = hessian.perm[index(n - 1 - row)];
    const float* source = hessian.h.data() + source_row * n;
    double* target = host + row * n;
    for (std::int64_t column = 0; column <= row; ++column)
      target[column] = static_cast<double>(source[hessian.perm[index(n - 1 - column)]]);
    target[row] += damping_value;
    std::fill(target + row + 1, target + n, 0.0);
  });
  if (!on_host)
    context.memory().copy_from_host(context.exec(), host, n * n * std::int64_t{sizeof(double)}, work.data());
  if (context.linalg().cholesky_lower_f64(context.exec(), n, work.data(), n) != 0) return std::nullopt;
  if (context.linalg().invert_lower_f64(context.exec(), n, work.data(), n) != 0) return std::nullopt;
  if (!on_host) context.memory().copy_to_host(context.exec(), work.data(), n * n * std::int64_t{sizeof(double)}, host);
  std::vector<float> upper(index(n * n));
  std::vector<char> finite(index(n), 1);
  context.pool().parallel_for(n, [&](std::int64_t row) {
    const double* source = host + (n - 1 - row) * n;
    float* target = upper.data() + row * n;
    bool fine = true;
    for (std::int64_t column = row; column < n; ++column) {
      target[column] = static_cast<float>(source[n - 1 - column]);
      fine = fine && std::isfinite(target[column]);
    }
    finite[index(row)] = fine && target[row] > 0;
  });
  if (std::find(finite.begin(), finite.end(), 0) != finite.end()) return std::nullopt;
  return upper;
}

}  // namespace

PreparedHessian prepare_hessian(backend::Context& context, std::int64_t n, std::span<const float> lower, double damping,
                                bool act_order) {
  const auto order = core::checked_multiply(n, n + 1);
  VORONOI_REQUIRE(n > 0 && n <= INT32_MAX && order.has_value(), "a Hessian needs a size, not " + std::to_string(n));
  VORONOI_REQUIRE(static_cast<std::int64_t>(lower.size()) == *order / 2,
                  "a packed lower triangle of order " + std::to_string(n) + " has " + std::to_string(*order / 2) +
                      " values, not " + std::to_string(lower.size()));
  VORONOI_REQUIRE(damping >= 0 && damping <= kLastDamping, "damping is a share of the mean diagonal in 0..1");
  PreparedHessian result;
  result.n = n;
  result.h = unpack_symmetric(context, n, lower);

  double mean = 0;
  for (std::int64_t i = 0; i < n; ++i) mean += static_cast<double>(result.h[index(i * n + i)]);
  mean /= static_cast<double>(n);
  // No input was ever seen: any metric is as good as another, so plain distance.
  const double dead_diagonal = mean > 0 ? kDeadShare * mean : 1.0;
  for (std::int64_t i = 0; i < n; ++i) {
    float& diagonal = result.h[index(i * n + i)];
    if (diagonal != 0) continue;
    diagonal = static_cast<float>(dead_diagonal);
    ++result.dead_columns;
  }
  if (mean == 0) mean = 1.0;

  result.perm.resize(index(n));
  std::iota(result.perm.begin(), result.perm.end(), 0);
  if (act_order)
    std::stable_sort(result.perm.begin(), result.perm.end(), [&](std::int32_t a, std::int32_t b) {
      return result.h[index(std::int64_t{a} * n + a)] > result.h[index(std::int64_t{b} * n + b)];
    });

  for (result.damping = damping;; ++result.damping_steps) {
    if (auto upper = factor(context, result, result.damping * mean)) {
      result.factor = std::move(*upper);
      return result;
    }
    if (result.damping >= kLastDamping)
      throw core::NumericError(
          "the Hessian does not factor even with " + std::to_string(result.damping) +
          " of its mean diagonal added: it is far from positive semidefinite; calibrate again with more text");
    result.damping = std::min(kLastDamping, result.damping > 0 ? 10 * result.damping : kFirstDamping);
  }
}

}  // namespace voronoi::quant
