#include "kernels/cpu/routing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace voronoi::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float sigmoid_of(float x) { return 1.0F / (1.0F + std::exp(-x)); }

/// What a choice compares: NaN comes last.
float ordered(float value) { return std::isnan(value) ? -kInfinity : value; }

/// Experts of groups that do not stay become minus infinity.
void drop_groups(const RouteShape& shape, float* choice) {
  const std::int64_t size = shape.n_experts / shape.n_groups;
  std::array<float, kMaxRouteGroups> best{};
  for (std::int64_t g = 0; g < shape.n_groups; ++g) {
    float first = -kInfinity, second = -kInfinity;
    for (std::int64_t e = g * size; e < (g + 1) * size; ++e) {
      second = std::max(second, std::min(first, choice[e]));
      first = std::max(first, choice[e]);
    }
    best[static_cast<std::size_t>(g)] = first + second;
  }
  std::array<std::int32_t, kMaxRouteGroups> kept{};
  choose_largest(shape.n_groups, shape.top_groups, best.data(), kept.data());
  const auto last = kept.begin() + shape.top_groups;
  for (std::int64_t g = 0; g < shape.n_groups; ++g)
    if (std::find(kept.begin(), last, g) == last) std::fill_n(choice + g * size, size, -kInfinity);
}

}  // namespace

void choose_largest(std::int64_t n, std::int64_t top_k, const float* values, std::int32_t* chosen) {
  for (std::int64_t j = 0; j < top_k; ++j) {
    std::int32_t best = -1;
    for (std::int32_t e = 0; e < n; ++e)
      if (std::find(chosen, chosen + j, e) == chosen + j && (best < 0 || values[e] > values[best])) best = e;
    chosen[j] = best;
  }
}

void route_sigmoid_row(const RouteShape& shape, const float* logits, const float* bias, float* work,
                       std::int32_t* expert, float* weight) {
  for (std::int64_t e = 0; e < shape.n_experts; ++e)
    work[e] = ordered(bias == nullptr ? logits[e] : sigmoid_of(logits[e]) + bias[e]);
  if (shape.top_groups < shape.n_groups) drop_groups(shape, work);
  choose_largest(shape.n_experts, shape.top_k, work, expert);
  float sum = 0;
  for (std::int64_t j = 0; j < shape.top_k; ++j) sum += weight[j] = sigmoid_of(logits[expert[j]]);
  float factor = shape.renormalise ? shape.factor / (sum + 1e-20F) : shape.factor;
  if (std::any_of(logits, logits + shape.n_experts, [](float logit) { return std::isnan(logit); }))
    factor = std::numeric_limits<float>::quiet_NaN();
  for (std::int64_t j = 0; j < shape.top_k; ++j) weight[j] *= factor;
}

/// Softmax: the chosen weights are p_j / P, P their sum, or p_j of a softmax over all: with d . w the weighted mean of
/// d_weight, d_logit_j = w_j (d_j - d . w), and where not renormalised - p_e (d . w) for the experts not chosen.
/// Sigmoid: weights f s_j, or f s_j / S, S the sum of the chosen: d_s_j = f d_j, or f (d_j - sum_k d_k s_k / S) / S.
void route_gradient_row(const RouteShape& shape, const float* logits, const std::int32_t* expert, const float* weight,
                        const float* d_weight, float* d_logits) {
  float mean = 0;
  for (std::int64_t j = 0; j < shape.top_k; ++j) mean += weight[j] * d_weight[j];
  if (!shape.sigmoid) {
    for (std::int64_t e = 0; e < shape.n_experts; ++e)
      d_logits[e] = shape.renormalise ? 0.0F : -mean * weight[0] * std::exp(logits[e] - logits[expert[0]]);
    for (std::int64_t j = 0; j < shape.top_k; ++j) d_logits[expert[j]] = weight[j] * (d_weight[j] - mean);
    return;
  }
  std::fill_n(d_logits, shape.n_experts, 0.0F);
  float sum = 0;
  for (std::int64_t j = 0; j < shape.top_k; ++j) sum += sigmoid_of(logits[expert[j]]);
  for (std::int64_t j = 0; j < shape.top_k; ++j) {
    const float share = sigmoid_of(logits[expert[j]]);
    const float slope =
        shape.renormalise ? (shape.factor * d_weight[j] - mean) / (sum + 1e-20F) : shape.factor * d_weight[j];
    d_logits[expert[j]] = slope * share * (1.0F - share);
  }
}

}  // namespace voronoi::kernels
