// Damping and factoring of a site's second moment (GPTQ, Frantar et al. 2023; act-order and factor as VPTQ uses them).
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <string>

#include "backend/tensor.h"
#include "core/error.h"
#include "core/index.h"
#include "core/work_counts.h"
#include "quant/cost.h"
#include "quant/quantizer.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr double kDeadShare = 0.01;     // a dead column's diagonal, as a share of the mean diagonal
constexpr double kFirstDamping = 1e-4;  // where raising starts from when no damping was asked for
constexpr double kLastDamping = 1.0;
constexpr float kRoundedDiagonal = 1e-6F;  // of the largest: a diagonal below zero by no more is rounding
// A largest diagonal within 2^-40..2^40 leaves products with weights and sums over inputs inside fp32.
constexpr int kPlainExponent = 40;

/// Every value is looked at, so that no NaN gets further. Returns the largest of the diagonal.
float require_second_moment(std::int64_t n, std::span<const float> lower) {
  float largest = 0;
  for (std::int64_t row = 0; row < n; ++row) {
    const float* values = lower.data() + row * (row + 1) / 2;
    for (std::int64_t column = 0; column <= row; ++column)
      if (!std::isfinite(values[column]))
        throw core::NumericError("the Hessian is not finite: row " + std::to_string(row) + ", column " +
                                 std::to_string(column) + " is " + std::to_string(values[column]) +
                                 "; the activations overflowed or the calibration data are damaged");
    largest = std::max(largest, values[row]);
  }
  for (std::int64_t row = 0; row < n; ++row)
    if (const float value = lower[index(row * (row + 3) / 2)]; value < -kRoundedDiagonal * largest)
      throw core::NumericError("the Hessian is no second moment: its diagonal at row " + std::to_string(row) + " is " +
                               std::to_string(value));
  return largest;
}

/// The power of two that brings a diagonal out of range to about 1; else 0.
int unit_exponent_of(float largest) {
  int exponent = 0;
  std::frexp(largest, &exponent);
  return largest > 0 && std::abs(exponent) > kPlainExponent ? exponent : 0;
}

/// Factors P (H + damping_value I) P^T. With J the reversal, A = J P H P^T J = L L^T gives (P H P^T)^-1 = U^T U for the
/// upper U = J L^-1 J. Nothing when it is not positive definite in fp64 or the factor is not finite in fp32.
std::optional<backend::Array<float>> factor(backend::Context& context, const PreparedHessian& hessian,
                                            double damping_value) {
  const std::int64_t n = hessian.n;
  const backend::DeviceView<std::int32_t> perm(context, hessian.perm);
  backend::Array<double> work(context, n * n);
  context.hessian().reverse(context.exec(), n, hessian.h.data(), perm.data(), damping_value, work.data());
  core::count_work(core::Counted::factor_flops, hessian_work(n).factor);
  if (context.linalg().cholesky_lower_f64(context.exec(), n, work.data(), n) != 0) return std::nullopt;
  if (context.linalg().invert_lower_f64(context.exec(), n, work.data(), n) != 0) return std::nullopt;
  backend::Array<float> upper(context, n * n);
  if (!context.hessian().reverse_back(context.exec(), n, work.data(), upper.data())) return std::nullopt;
  return upper;
}

/// In its unit, with dead columns' diagonal set; yet without order and factor.
struct MendedHessian {
  PreparedHessian hessian;
  std::vector<float> diagonal;
  double mean = 0;  ///< of what was seen; 1 when that is nothing
};

MendedHessian mend(backend::Context& context, std::int64_t n, std::span<const float> lower, int unit_exponent) {
  MendedHessian mended;
  PreparedHessian& result = mended.hessian;
  result.n = n;
  result.unit_exponent = unit_exponent;
  std::vector<float> scaled;
  if (result.unit_exponent != 0) {
    for (const float value : lower) scaled.push_back(std::ldexp(value, -result.unit_exponent));
    lower = scaled;
  }
  result.h = both_triangles(context, n, lower);

  std::vector<float>& diagonal = mended.diagonal;
  double& mean = mended.mean;
  for (std::int64_t i = 0; i < n; ++i) {
    diagonal.push_back(std::max(lower[index(i * (i + 3) / 2)], 0.0F));
    mean += static_cast<double>(diagonal.back());
  }
  mean /= static_cast<double>(n);
  // No input was ever seen: any metric is as good as another, so plain distance.
  const double dead_diagonal = mean > 0 ? kDeadShare * mean : 1.0;
  for (float& value : diagonal) {
    if (value != 0) continue;
    value = static_cast<float>(dead_diagonal);
    ++result.dead_columns;
  }
  const backend::DeviceView<float> on_device(context, diagonal);
  context.hessian().set_diagonal(context.exec(), n, on_device.data(), result.h.data());
  if (mean == 0) mean = 1.0;
  return mended;
}

PreparedHessian damped_and_factored(backend::Context& context, MendedHessian mended, double damping) {
  PreparedHessian result = std::move(mended.hessian);
  std::vector<float>& diagonal = mended.diagonal;
  const double mean = mended.mean;
  const std::int64_t n = result.n;
  for (result.damping = damping;; ++result.damping_steps) {
    if (auto upper = factor(context, result, result.damping * mean)) {
      result.factor = std::move(*upper);
      result.added = result.damping_steps > 0 ? 0 : result.damping * mean;
      if (result.damping_steps > 0) {
        // It is no metric without: a fit in an indefinite one runs away along what lowers the error without end.
        for (float& value : diagonal) value += static_cast<float>(result.damping * mean);
        const backend::DeviceView<float> damped(context, diagonal);
        context.hessian().set_diagonal(context.exec(), n, damped.data(), result.h.data());
      }
      return result;
    }
    if (result.damping >= kLastDamping)
      throw core::NumericError(
          "the Hessian does not factor even with " + std::to_string(result.damping) +
          " of its mean diagonal added: it is far from positive semidefinite; calibrate again with more text");
    result.damping = std::min(kLastDamping, result.damping > 0 ? 10 * result.damping : kFirstDamping);
  }
}

}  // namespace

backend::Array<float> both_triangles(backend::Context& context, std::int64_t n, std::span<const float> lower) {
  const backend::DeviceView<float> packed(context, lower);
  backend::Array<float> full(context, n * n);
  context.hessian().unpack(context.exec(), n, packed.data(), full.data());
  return full;
}

PreparedHessian prepare_hessian(backend::Context& context, std::int64_t n, std::span<const float> lower, double damping,
                                bool act_order) {
  return std::move(prepare_hessians(context, n, {{lower, 1}}, damping, act_order).front());
}

std::vector<PreparedHessian> prepare_hessians(backend::Context& context, std::int64_t n,
                                              const std::vector<RowMoment>& moments, double damping, bool act_order) {
  const auto order = core::checked_multiply(n, n + 1);
  VORONOI_REQUIRE(n > 0 && n <= INT32_MAX && order.has_value(), "a Hessian needs a size, not " + std::to_string(n));
  VORONOI_REQUIRE(damping >= 0 && damping <= kLastDamping, "damping is a share of the mean diagonal in 0..1");
  VORONOI_REQUIRE(!moments.empty(), "a Hessian is wanted");
  float largest = 0;
  std::int64_t rows = 0;
  for (const RowMoment& moment : moments) {
    VORONOI_REQUIRE(static_cast<std::int64_t>(moment.lower.size()) == *order / 2,
                    "a packed lower triangle of order " + std::to_string(n) + " has " + std::to_string(*order / 2) +
                        " values, not " + std::to_string(moment.lower.size()));
    largest = std::max(largest, require_second_moment(n, moment.lower));
    rows += moment.rows;
  }
  std::vector<MendedHessian> mended;
  std::vector<float> common;  // diagonal of the mean over the rows; of equal ones it is theirs to the last bit
  for (const RowMoment& moment : moments) {
    mended.push_back(mend(context, n, moment.lower, unit_exponent_of(largest)));
    const std::vector<float>& own = mended.back().diagonal;
    const std::vector<float>& first = mended.front().diagonal;
    if (mended.size() == 1) common = own;
    for (std::size_t i = 0; i < common.size(); ++i)
      common[i] += static_cast<float>(static_cast<double>(moment.rows) / static_cast<double>(rows) *
                                      (static_cast<double>(own[i]) - static_cast<double>(first[i])));
  }
  std::vector<std::int32_t> perm(index(n));
  std::iota(perm.begin(), perm.end(), 0);
  if (act_order)
    std::stable_sort(perm.begin(), perm.end(),
                     [&](std::int32_t a, std::int32_t b) { return common[index(a)] > common[index(b)]; });
  std::vector<PreparedHessian> prepared;
  for (MendedHessian& one : mended) {
    one.hessian.perm = perm;
    prepared.push_back(damped_and_factored(context, std::move(one), damping));
  }
  return prepared;
}

}  // namespace voronoi::quant
