#include "quant/target.h"

#include <algorithm>
#include <cmath>

#include "backend/tensor.h"
#include "core/error.h"
#include "core/index.h"
#include "core/work_counts.h"
#include "format/format.h"

namespace voronoi::quant {

using core::index;

namespace {

/// Rows of the weight on the device at a time.
constexpr std::int64_t kTargetRows = 256;

/// Sum of a * b, in the order of the values.
double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

/// Rows [first, last) of a linear, and what they are fitted in.
struct TargetRows {
  std::int64_t first = 0, last = 0;
  const PreparedHessian* hessian = nullptr;
  const TargetMoments* moments = nullptr;
};

std::vector<TargetRows> target_rows(const PreparedSite& site, std::int64_t out_features) {
  std::vector<TargetRows> groups{{0, out_features, &site.hessian, &site.target}};
  for (const PreparedRows& rows : site.later_groups) {
    groups.back().last = rows.first_row;
    groups.push_back({rows.first_row, out_features, &rows.hessian, &rows.target});
  }
  return groups;
}

}  // namespace

Target asymmetric_target(backend::Context& context, std::int64_t out_features, std::span<const float> weight,
                         const PreparedSite& site) {
  Target target;
  if (site.target.cross.empty()) return target;
  const std::int64_t n = site.hessian.n;
  VORONOI_REQUIRE(static_cast<std::int64_t>(weight.size()) == out_features * n, "the weight has its shape");
  const auto judge_of = [](const TargetRows& group) -> const backend::Array<float>& {
    return group.hessian->held_out.empty() ? group.moments->held_out : group.hessian->held_out;
  };
  const std::vector<TargetRows> groups = target_rows(site, out_features);
  const bool is_judged = std::all_of(groups.begin(), groups.end(), [&](const TargetRows& group) {
    return !judge_of(group).empty() && !group.moments->held_out_cross.empty();
  });
  const auto times = [&](const backend::Array<float>& rows, const backend::Array<float>& matrix, bool transposed) {
    backend::Array<float> product(context, rows.size());
    core::count_product(rows.size() / n, n, n);
    context.linalg().gemm_f32(context.exec(), false, transposed, rows.size() / n, n, n, 1.0F, rows.data(), n,
                              matrix.data(), n, 0.0F, product.data(), n);
    return product;
  };
  std::vector<float> correction(weight.size());  // natural order
  double gained = 0, lost = 0, energy = 0;
  // One share for the linear, the groups' gains and losses in one scale (choose_metrics).
  const auto correct = [&](const TargetRows& group, std::int64_t first) {
    const PreparedHessian& hessian = *group.hessian;
    const std::int64_t n_rows = std::min(kTargetRows, group.last - first);
    std::vector<float> ordered(index(n_rows * n));
    for (std::int64_t r = 0; r < n_rows; ++r)
      for (std::int64_t p = 0; p < n; ++p)
        ordered[index(r * n + p)] = weight[index((first + r) * n + hessian.perm[index(p)])];
    const backend::Array<float> rows(context, std::span<const float>(ordered));
    // (P (H + lambda I) P^T)^-1 = U^T U.
    const backend::Array<float> full =
        times(times(times(rows, group.moments->cross, false), hessian.factor, true), hessian.factor, false);
    const std::vector<float> values = full.to_host();
    for (std::int64_t r = 0; r < n_rows; ++r)
      for (std::int64_t p = 0; p < n; ++p)
        correction[index((first + r) * n + hessian.perm[index(p)])] = values[index(r * n + p)];
    if (!is_judged) return;
    gained += dot(times(rows, group.moments->held_out_cross, false).to_host(), values);
    lost += dot(times(full, judge_of(group), false).to_host(), values);
    energy += dot(times(rows, judge_of(group), false).to_host(), ordered);
  };
  for (const TargetRows& group : groups)
    for (std::int64_t first = group.first; first < group.last; first += kTargetRows) correct(group, first);
  if (std::all_of(correction.begin(), correction.end(), [](float value) { return value == 0; })) return target;
  if (!is_judged)
    target.share = kUnjudgedShare;
  else if (lost > 0)
    target.share = kTargetTrust * std::clamp(gained / lost, 0.0, 1.0);
  if (is_judged && energy > 0) target.gain = target.share * (2 * gained - target.share * lost) / energy;
  if (target.share == 0) return target;
  target.weight.assign(weight.begin(), weight.end());
  for (std::size_t i = 0; i < correction.size(); ++i)
    target.weight[i] += static_cast<float>(target.share * static_cast<double>(correction[i]));
  if (!std::all_of(target.weight.begin(), target.weight.end(),
                   [](float value) { return std::fabs(value) <= kLargestWeight; }))
    throw core::NumericError(
        "the asymmetric target has a value that is not finite or above 65504 (the range of F16); --target plain does "
        "without it, more --damping may help");
  return target;
}

Work target_work(std::int64_t out_features, std::int64_t in_features, bool judged, bool corrected) {
  return product_work(out_features, in_features, (judged ? 6 : 3) + (corrected ? 2 : 0));
}

double error_against_weight(backend::Context& context, core::Team& team, std::int64_t out_features,
                            std::span<const float> weight, const PreparedSite& site, const format::Encoding& encoding) {
  std::vector<float> decoded(weight.size());
  format::decode(encoding, decoded);
  const std::int64_t n = site.hessian.n;
  HessianEnergies sums;
  for (const TargetRows& group : target_rows(site, out_features)) {
    const std::size_t first = index(group.first * n), count = index((group.last - group.first) * n);
    const HessianEnergies own =
        hessian_energies(context, team, group.last - group.first, n, weight.subspan(first, count),
                         std::span(decoded).subspan(first, count), group.hessian->h);
    sums.error += own.error;
    sums.energy += own.energy;
  }
  return relative_error_of(sums.error, sums.energy);
}

}  // namespace voronoi::quant
