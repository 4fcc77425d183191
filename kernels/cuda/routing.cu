// Routers of mixtures of experts and their derivatives, a warp a row. Bound by reading the logits once for each choice.
#include "kernels/cuda/choice.cuh"
#include "kernels/cuda/nn_gradient.cuh"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kWarps = kNnThreads / kWarpSize;

/// What the choice among experts compares: the logits, or sigmoid + bias.
struct Choice {
  const float *logits, *bias;
  __device__ float operator()(std::int64_t e) const {
    return ordered(bias == nullptr ? logits[e] : sigmoid_of(logits[e]) + bias[e]);
  }
};

/// The groups that stay: all up to the last one chosen, in the order of the choice.
struct Groups {
  const float* best;  ///< [n_groups]
  std::int64_t size;
  Candidate last;
  bool all;
  __device__ bool stays(std::int64_t e) const {
    if (all) return true;
    const Candidate group{best[e / size], static_cast<std::int32_t>(e / size)};
    return !before(last, group);
  }
};

/// best [n_groups], of the warp's own: sums of the two best; the choice of the top_groups.
__device__ __forceinline__ Groups choose_groups(const RouteShape& shape, const Choice& choice, float* best) {
  Groups groups{best, shape.n_experts / shape.n_groups, {INFINITY, -1}, shape.top_groups >= shape.n_groups};
  if (groups.all) return groups;
  for (std::int64_t g = lane_id(); g < shape.n_groups; g += kWarpSize) {
    float first = -INFINITY, second = -INFINITY;
    for (std::int64_t e = g * groups.size; e < (g + 1) * groups.size; ++e) {
      const float value = choice(e);
      second = fmaxf(second, fminf(first, value));
      first = fmaxf(first, value);
    }
    best[g] = first + second;
  }
  sync_warp();
  for (std::int64_t j = 0; j < shape.top_groups; ++j) {
    Candidate next{-INFINITY, 0x7fffffff};
    for (std::int64_t g = lane_id(); g < shape.n_groups; g += kWarpSize) {
      const Candidate candidate{best[g], static_cast<std::int32_t>(g)};
      if (before(groups.last, candidate) && before(candidate, next)) next = candidate;
    }
    groups.last = first_of_warp(next);
  }
  return groups;
}

/// The choices come in order, so the next one is the first after the last: no list is kept.
__global__ void __launch_bounds__(kNnThreads)
    route_kernel(RouteShape shape, const float* logits, const float* bias, std::int32_t* expert, float* weight) {
  __shared__ float shared[kWarps][kMaxRouteGroups];
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_id(); row < shape.n_rows;
       row += static_cast<std::int64_t>(gridDim.x) * kWarps) {
    const float* values = logits + row * shape.n_experts;
    std::int32_t* chosen = expert + row * shape.top_k;
    float* weights = weight + row * shape.top_k;
    const Choice choice{values, bias};
    const Groups groups = choose_groups(shape, choice, shared[warp_id()]);
    Candidate last{INFINITY, -1};
    float largest = 0;
    for (std::int64_t j = 0; j < shape.top_k; ++j) {
      Candidate best{-INFINITY, 0x7fffffff};
      for (std::int64_t e = lane_id(); e < shape.n_experts; e += kWarpSize) {
        const Candidate candidate{groups.stays(e) ? choice(e) : -INFINITY, static_cast<std::int32_t>(e)};
        if (before(last, candidate) && before(candidate, best)) best = candidate;
      }
      best = first_of_warp(best);
      if (lane_id() == 0) chosen[j] = best.place;
      if (j == 0) largest = values[best.place];
      last = best;
    }
    // Of sigmoids it only tells of NaNs.
    float sum = 0;
    for (std::int64_t e = lane_id(); e < shape.n_experts; e += kWarpSize) sum += expf(values[e] - largest);
    sum = warp_sum(sum);
    sync_warp();  // shared is the next row's
    if (lane_id() != 0) continue;
    const bool sound = sum == sum;
    float total = 0;
    for (std::int64_t j = 0; j < shape.top_k; ++j) {
      weights[j] = shape.sigmoid ? sigmoid_of(values[chosen[j]]) : expf(values[chosen[j]] - largest) / sum;
      total += weights[j];
    }
    for (std::int64_t j = 0; j < shape.top_k; ++j) {
      if (!shape.sigmoid) {
        if (shape.renormalise) weights[j] /= total;
        continue;
      }
      weights[j] *= shape.renormalise ? shape.factor / (total + 1e-20F) : shape.factor;
      if (!sound) weights[j] = sum;
    }
  }
}

/// As the CPU's route_gradient_row.
__global__ void __launch_bounds__(kNnThreads)
    route_gradient_kernel(RouteShape shape, const float* logits, const std::int32_t* expert, const float* weight,
                          const float* d_weight, float* d_logits) {
  const std::int64_t n_experts = shape.n_experts, top_k = shape.top_k;
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_id(); row < shape.n_rows;
       row += static_cast<std::int64_t>(gridDim.x) * kWarps) {
    const float *values = logits + row * n_experts, *weights = weight + row * top_k, *slopes = d_weight + row * top_k;
    const std::int32_t* chosen = expert + row * top_k;
    float* target = d_logits + row * n_experts;
    float mean = 0, sum = 0;
    for (std::int64_t j = 0; j < top_k; ++j) mean += weights[j] * slopes[j];
    if (shape.sigmoid)
      for (std::int64_t j = 0; j < top_k; ++j) sum += sigmoid_of(values[chosen[j]]);
    for (std::int64_t e = lane_id(); e < n_experts; e += kWarpSize)
      target[e] = shape.renormalise || shape.sigmoid ? 0.0F : -mean * weights[0] * expf(values[e] - values[chosen[0]]);
    sync_warp();
    for (std::int64_t j = lane_id(); j < top_k; j += kWarpSize) {
      if (!shape.sigmoid) {
        target[chosen[j]] = weights[j] * (slopes[j] - mean);
        continue;
      }
      const float share = sigmoid_of(values[chosen[j]]), whole = shape.factor * slopes[j];
      target[chosen[j]] = (shape.renormalise ? (whole - mean) / (sum + 1e-20F) : whole) * share * (1.0F - share);
    }
  }
}

}  // namespace

void route(const Exec& exec, const RouteShape& shape, const float* logits, const float* bias, std::int32_t* expert,
           float* weight) {
  if (shape.n_rows <= 0) return;
  launch(native(exec), route_kernel, nn_grid(core::ceil_div(shape.n_rows, kWarps)), dim3(kNnThreads), 0, shape, logits,
         bias, expert, weight);
}

void route_gradient(const Exec& exec, const RouteShape& shape, const float* logits, const std::int32_t* expert,
                    const float* weight, const float* d_weight, float* d_logits) {
  if (shape.n_rows <= 0) return;
  launch(native(exec), route_gradient_kernel, nn_grid(core::ceil_div(shape.n_rows, kWarps)), dim3(kNnThreads), 0, shape,
         logits, expert, weight, d_weight, d_logits);
}

}  // namespace voronoi::kernels::gpu
