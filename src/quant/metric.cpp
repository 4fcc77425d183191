#include "quant/metric.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <span>
#include <utility>

#include "backend/tensor.h"
#include "core/error.h"
#include "core/index.h"
#include "core/work_counts.h"
#include "quant/quantizer.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr double kGuidedShares[] = {0, 0.25, 0.5, 0.75, 1};
constexpr double kDampingStep = 3;
constexpr int kMostDampingSteps = 4;
/// Effective tokens an input from which on a guided moment counts as much as the plain one, where nothing else tells.
constexpr double kTokensAnInput = 4;

double trace(std::int64_t n, std::span<const float> lower) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(lower[index(i * (i + 3) / 2)]);
  return sum;
}

bool is_usable(double trace) { return std::isfinite(trace) && trace > 0; }

bool is_there(std::int64_t n, std::span<const float> lower) {
  VORONOI_REQUIRE(lower.empty() || lower.size() == index(n * (n + 1) / 2), "moments of one input have one order");
  return !lower.empty() && is_usable(trace(n, lower));
}

/// a * x + b * y, elementwise.
std::vector<float> mixed(double a, std::span<const float> x, double b, std::span<const float> y) {
  std::vector<float> result(x.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    result[i] = static_cast<float>(a * static_cast<double>(x[i]) + b * static_cast<double>(y[i]));
  return result;
}

/// Of the tokens of both, held out and not.
std::vector<float> pooled(const InputMoments& moments, std::span<const float> here, std::span<const float> there) {
  const auto tokens = static_cast<double>(moments.tokens), others = static_cast<double>(moments.held_out_tokens);
  return mixed(tokens / (tokens + others), here, others / (tokens + others), there);
}

/// Both moments at the mean diagonal of the plain one.
std::vector<float> blend(std::int64_t n, std::span<const float> plain, std::span<const float> guided, double share) {
  if (share == 0) return {plain.begin(), plain.end()};
  return mixed(1 - share, plain, share * trace(n, plain) / trace(n, guided), guided);
}

/// What belongs to a blend of moments: cross moments in the same shares.
std::vector<float> blend_cross(std::int64_t n, const InputMoments& of, double share, bool held_out) {
  const std::span<const float> plain = held_out ? of.held_out_cross_plain : of.cross_plain,
                               guided = held_out ? of.held_out_cross_guided : of.cross_guided;
  const auto is_there = [n](std::span<const float> cross) {
    VORONOI_REQUIRE(cross.empty() || cross.size() == index(n * n), "moments of one input have one order");
    return !cross.empty();
  };
  if (!is_there(plain)) return {};
  for (const std::span<const float> cross : {plain, guided})
    if (!std::all_of(cross.begin(), cross.end(), [](float value) { return std::isfinite(value); }))
      throw core::NumericError(
          "the cross moment of both streams' inputs is not finite; the activations overflowed or the calibration data "
          "are damaged; --target plain does without it");
  if (share == 0 || !is_there(guided)) return {plain.begin(), plain.end()};
  const double unit =
      held_out ? trace(n, of.held_out_plain) / trace(n, of.held_out_guided) : trace(n, of.plain) / trace(n, of.guided);
  return mixed(1 - share, plain, share * unit, guided);
}

/// A factor, its inverse, and the panels of log_cost_elsewhere: n^3 where n is many panels.
double trial_flops(std::int64_t n) {
  double flops = hessian_work(n).factor;
  for (std::int64_t first = 0; first < n; first += kInversePanel) {
    const std::int64_t width = std::min(kInversePanel, n - first);
    flops += 2 * static_cast<double>(first + width) * static_cast<double>(width) * static_cast<double>(n - first);
  }
  return flops;
}

}  // namespace

std::vector<float> plain_moment(std::int64_t n, const InputMoments& moments) {
  if (!is_there(n, moments.plain) || !is_there(n, moments.held_out_plain))
    return {moments.plain.begin(), moments.plain.end()};
  return pooled(moments, moments.plain, moments.held_out_plain);
}

std::optional<double> log_cost_elsewhere(backend::Context& context, std::int64_t n, std::span<const float> lower,
                                         double damping, std::span<const float> elsewhere) {
  std::vector<std::int32_t> natural(index(n));
  std::iota(natural.begin(), natural.end(), 0);
  const auto& linalg = context.linalg();
  backend::Array<double> factor(context, n * n);  // of H in reversed order
  {
    const backend::DeviceView<std::int32_t> order(context, natural);
    const backend::Array<float> full = both_triangles(context, n, lower);
    context.hessian().reverse(context.exec(), n, full.data(), order.data(),
                              damping * trace(n, lower) / static_cast<double>(n), factor.data());
  }
  core::count_work(core::Counted::factor_flops, trial_flops(n));
  if (linalg.cholesky_lower_f64(context.exec(), n, factor.data(), n) != 0) return std::nullopt;
  backend::Array<double> diagonal(context, n);
  linalg.diagonal_f64(context.exec(), n, factor.data(), diagonal.data());
  double log_determinant = 0;
  for (const double value : diagonal.to_host()) log_determinant += 2 * std::log(value);
  if (linalg.invert_lower_f64(context.exec(), n, factor.data(), n) != 0) return std::nullopt;
  // H^-1 = F^T F with F lower, a panel of its columns at a time: above its diagonal, and without the rows of F that are
  // 0 there, which leaves a sixth of the operations of the whole product.
  const std::int64_t widest = std::min(n, kInversePanel);
  backend::Array<double> panel(context, n * widest);
  std::vector<double> row_sums(index(n), 0.0);
  for (std::int64_t first = 0; first < n; first += widest) {
    const std::int64_t width = std::min(widest, n - first), rows = first + width;
    const double* below = factor.data() + first * n;
    linalg.gemm_f64(context.exec(), true, false, rows, width, n - first, 1.0, below, n, below + first, n, 0.0,
                    panel.data(), width);
    const backend::HostView<double> inverted(context, panel.data(), rows * width);
    context.pool().parallel_for(rows, [&](std::int64_t row) {
      const std::int64_t i = n - 1 - row;  // orders of H and of F are reversed
      const float* values = elsewhere.data() + i * (i + 1) / 2;
      const double* images = inverted.values().data() + row * width;
      double sum = 0;
      for (std::int64_t column = std::max(row, first); column < rows; ++column)
        sum += (column == row ? 1 : 2) * static_cast<double>(values[n - 1 - column]) * images[column - first];
      row_sums[index(row)] += sum;
    });
  }
  double sum = 0;
  for (const double value : row_sums) sum += value;
  const double order = static_cast<double>(n), cost = std::log(sum / order) + log_determinant / order;
  return std::isfinite(cost) ? std::optional(cost) : std::nullopt;
}

Work choice_work(std::int64_t n, bool guided, bool held_out, double tokens, double damping) {
  Work work;
  if (!held_out) return work;
  const double order = static_cast<double>(n);
  double candidates = guided ? std::size(kGuidedShares) : 1;
  if (damping > 0) {  // those that help, and one that does not
    const double helping = std::log(order / (std::max(tokens, 1.0) * damping)) / std::log(kDampingStep);
    candidates += std::min<double>(kMostDampingSteps, 1 + std::max(helping, 0.0));
  }
  work.factor = candidates * trial_flops(n);
  work.bytes = candidates * 4 * order * order * (guided ? 3 : 1);
  return work;
}

Metric choose_metric(backend::Context& context, std::int64_t n, const InputMoments& moments, double damping,
                     bool keep_apart) {
  const bool can_guide = is_there(n, moments.plain) && is_there(n, moments.guided);
  Metric best;
  best.damping = damping;
  if (!is_there(n, moments.plain) || !is_there(n, moments.held_out_plain)) {
    if (can_guide)
      best.guided_share = kGuidedTrust * moments.effective_tokens /
                          (moments.effective_tokens + kTokensAnInput * static_cast<double>(n));
    best.lower = blend(n, moments.plain, moments.guided, best.guided_share);
    best.cross = blend_cross(n, moments, best.guided_share, false);
    return best;
  }
  const double judge_share = can_guide && is_there(n, moments.held_out_guided) ? kGuidedTrust : 0;
  std::vector<float> judge = blend(n, moments.held_out_plain, moments.held_out_guided, judge_share);
  if (keep_apart && moments.held_out_cross_plain.empty() && moments.drop_held_out) moments.drop_held_out();
  std::optional<double> least;
  const auto try_out = [&](double share, double damping_there) {
    const auto cost =
        log_cost_elsewhere(context, n, blend(n, moments.plain, moments.guided, share), damping_there, judge);
    if (!cost || (least && !(*cost < *least))) return false;
    least = cost;
    best.damping = damping_there;
    best.guided_share = share;
    return true;
  };
  for (const double share : kGuidedShares)
    if (share == 0 || can_guide) try_out(share, damping);
  for (int step = 0; step < kMostDampingSteps && best.damping > 0; ++step)
    if (!try_out(best.guided_share, std::min(1.0, kDampingStep * best.damping))) break;
  // Where none factors prepare_hessian damps the plain one, or tells.
  best.lower = blend(n, moments.plain, moments.guided, best.guided_share);
  best.cross = blend_cross(n, moments, best.guided_share, false);
  if (!best.cross.empty()) best.held_out_cross = blend_cross(n, moments, judge_share, true);
  if (keep_apart || !best.cross.empty()) {
    const double scale = trace(n, best.lower) / trace(n, judge);
    for (std::vector<float>* values : {&judge, &best.held_out_cross})
      for (float& value : *values) value = static_cast<float>(scale * static_cast<double>(value));
    best.held_out = std::move(judge);
  }
  if (keep_apart) return best;
  const std::vector<float> plain = plain_moment(n, moments);
  const bool pools_guided = best.guided_share > 0 && is_there(n, moments.held_out_guided);
  best.lower = blend(n, plain,
                     pools_guided ? pooled(moments, moments.guided, moments.held_out_guided)
                                  : std::vector<float>(moments.guided.begin(), moments.guided.end()),
                     best.guided_share);
  return best;
}

std::vector<Metric> choose_metrics(backend::Context& context, std::int64_t n, std::int64_t rows,
                                   const InputMoments& moments, double damping, bool keep_apart) {
  const std::size_t n_groups = 1 + moments.later_groups.size();
  std::vector<double> traces, shares;  // of the guided moments, and of the rows
  std::vector<Metric> metrics;
  std::int64_t first_row = 0;
  for (std::size_t g = 0; g < n_groups; ++g) {
    InputMoments own = moments;
    own.later_groups.clear();
    if (g > 0) {
      const RowGroupMoments& group = moments.later_groups[g - 1];
      own.guided = group.guided;
      own.effective_tokens = group.effective_tokens;
      own.held_out_guided = group.held_out_guided;
      own.cross_guided = group.cross_guided;
      own.held_out_cross_guided = group.held_out_cross_guided;
    }
    if (g + 1 < n_groups) own.drop_held_out = nullptr;  // those behind it look at them
    const std::int64_t end = g + 1 < n_groups ? moments.later_groups[g].first_row : rows;
    VORONOI_REQUIRE(first_row < end && end <= rows, "groups of rows are in order, each with a row");
    shares.push_back(static_cast<double>(end - first_row) / static_cast<double>(rows));
    first_row = end;
    traces.push_back(is_there(n, own.guided) ? trace(n, own.guided) : 0);
    metrics.push_back(choose_metric(context, n, own, damping, keep_apart));
  }
  // By differences to the first: equal traces are their own mean to the last bit.
  double mean = traces.front();
  for (std::size_t g = 1; g < n_groups; ++g) mean += shares[g] * (traces[g] - traces.front());
  if (!is_usable(mean)) return metrics;
  for (std::size_t g = 0; g < n_groups; ++g) {
    const double scale = std::max(kLeastGroupScale, traces[g] / mean);
    if (scale == 1) continue;
    Metric& metric = metrics[g];
    for (std::vector<float>* values : {&metric.lower, &metric.held_out, &metric.cross, &metric.held_out_cross})
      for (float& value : *values) value = static_cast<float>(scale * static_cast<double>(value));
  }
  return metrics;
}

}  // namespace voronoi::quant
