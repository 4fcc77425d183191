// Derivatives of the elementwise operations of a decoder block and the table of the family. All are bound by memory:
// each value is read and written once.
#include "kernels/cuda/families.h"
#include "kernels/cuda/nn_gradient.cuh"
#include "kernels/cuda/rows.cuh"

namespace voronoi::kernels::gpu {
namespace {

struct SiluExponent {
  __device__ static float value(float x) { return x; }
  __device__ static float slope(float) { return 1.0F; }
};
/// 2 sqrt(2 / pi) (x + 0.044715 x^3), as in the forward pass.
struct GeluExponent {
  __device__ static float value(float x) { return x * (x * x * 0.044715F + 1.0F) * 1.5957691216057308F; }
  __device__ static float slope(float x) { return (x * x * (3 * 0.044715F) + 1.0F) * 1.5957691216057308F; }
};

/// Of f(gate) * up with f(x) = x s, s = 1 / (1 + exp(-e(x))): f' = s + x s (1 - s) e'(x).
template <class Exponent>
struct GateGradient {
  const float *gate, *up, *d_out;
  float *d_gate, *d_up;
  __device__ void operator()(std::int64_t, std::int64_t i) const {
    constexpr float kLimit = 88.0F;  // beyond it s (1 - s) is nothing, and exp would overflow
    const float x = gate[i], d = d_out[i];
    const float exponential = expf(fminf(-Exponent::value(x), kLimit));
    const float share = 1.0F / (1.0F + exponential);
    const float bounded = fmaxf(fminf(x, kLimit), -kLimit);
    const float bent = bounded * Exponent::slope(bounded) * (exponential * share * share);
    const float up_of = up[i];
    d_gate[i] = d * up_of * (share + bent);
    d_up[i] = d * (x * share);
  }
};

struct ClampedGradient {
  float limit;
  const float *gate, *up, *d_out;
  float *d_gate, *d_up;
  __device__ void operator()(std::int64_t, std::int64_t i) const {
    constexpr float kFurthest = 88.0F;
    const float g = fminf(gate[i], limit), of_up = up[i], u = fminf(fmaxf(of_up, -limit), limit), d = d_out[i];
    const bool free_gate = gate[i] <= limit, free_up = fabsf(of_up) <= limit;
    const float exponential = expf(fminf(-(g * kClampedSlope), kFurthest));
    const float share = 1.0F / (1.0F + exponential);
    const float bent = fmaxf(g, -kFurthest) * kClampedSlope * (exponential * share * share);
    d_gate[i] = free_gate ? d * (u + 1.0F) * (share + bent) : 0.0F;
    d_up[i] = free_up ? d * (g * share) : 0.0F;
  }
};

struct SumHeads {
  HeadParts parts;
  const float* x;
  float* out;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const float* from = x + row * parts.ldx + column;
    float sum = from[0];
    for (std::int64_t h = 1; h < parts.n_heads; ++h) sum += from[h * parts.step_x];
    out[row * parts.ld_out + column] = sum;
  }
};

struct SoftCapGradient {
  float cap;
  const float* y;
  float* dx;
  __device__ void operator()(std::int64_t, std::int64_t i) const {
    const float share = y[i] / cap;
    dx[i] *= fmaf(-share, share, 1.0F);
  }
};

struct SigmoidGradient {
  const float* y;
  float* dx;
  __device__ void operator()(std::int64_t, std::int64_t i) const { dx[i] *= y[i] * (1.0F - y[i]); }
};

/// A column is a pair (head, i), turned back by the angle it was turned by.
struct RopeGradient {
  RopePlace place;
  const float* cos_sin;
  float* dx;
  std::int64_t ldx;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const float* turn = cos_sin + place.turn(row, column);
    float* low = dx + row * ldx + place.low(column);
    float* high = low + place.apart();
    const float cosine = turn[0], sine = turn[place.half], a = *low, b = *high;
    *low = fmaf(b, sine, a * cosine);
    *high = fmaf(-a, sine, b * cosine);
  }
};

void swiglu_gradient(const Exec& exec, std::int64_t n, const float* gate, const float* up, const float* d_out,
                     float* d_gate, float* d_up) {
  for_rows(exec, 1, n, GateGradient<SiluExponent>{gate, up, d_out, d_gate, d_up});
}

void geglu_gradient(const Exec& exec, std::int64_t n, const float* gate, const float* up, const float* d_out,
                    float* d_gate, float* d_up) {
  for_rows(exec, 1, n, GateGradient<GeluExponent>{gate, up, d_out, d_gate, d_up});
}

void clamped_swiglu_gradient(const Exec& exec, std::int64_t n, float limit, const float* gate, const float* up,
                             const float* d_out, float* d_gate, float* d_up) {
  for_rows(exec, 1, n, ClampedGradient{limit, gate, up, d_out, d_gate, d_up});
}

void sum_heads(const Exec& exec, const HeadParts& parts, const float* x, float* out) {
  for_rows(exec, parts.n_rows, parts.width, SumHeads{parts, x, out});
}

void soft_cap_gradient(const Exec& exec, std::int64_t n, float cap, const float* y, float* dx) {
  for_rows(exec, 1, n, SoftCapGradient{cap, y, dx});
}

void sigmoid_gradient(const Exec& exec, std::int64_t n, const float* y, float* dx) {
  for_rows(exec, 1, n, SigmoidGradient{y, dx});
}

void rope_gradient(const Exec& exec, const RopeShape& shape, const float* cos_sin, float* dx, std::int64_t ldx) {
  for_rows(exec, shape.n_rows, shape.n_heads * (shape.n_turned / 2), RopeGradient{place_of(shape), cos_sin, dx, ldx});
}

}  // namespace
}  // namespace voronoi::kernels::gpu

namespace voronoi::kernels {

NnGradientKernels cuda_nn_gradient_kernels() {
  return {.rms_norm = gpu::rms_norm_gradient,
          .rope = gpu::rope_gradient,
          .attention = gpu::attention_gradient,
          .swiglu = gpu::swiglu_gradient,
          .geglu = gpu::geglu_gradient,
          .soft_cap = gpu::soft_cap_gradient,
          .sigmoid = gpu::sigmoid_gradient,
          .column_sums = gpu::column_sums,
          .route = gpu::route_gradient,
          .weighted_rows = gpu::weighted_rows,
          .square_sums = gpu::square_sums,
          .scatter_rows = gpu::scatter_rows,
          .cross_entropy = gpu::cross_entropy,
          .divergence = gpu::divergence,
          .layer_norm = gpu::layer_norm_gradient,
          .clamped_swiglu = gpu::clamped_swiglu_gradient,
          .sum_heads = gpu::sum_heads};
}

}  // namespace voronoi::kernels
