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
  std::int64_t n_tokens, half;
  const float* cos_sin;
  float* dx;
  std::int64_t ldx;
  __device__ void operator()(std::int64_t row, std::int64_t column) const {
    const std::int64_t i = column % half;
    const float* turn = cos_sin + row % n_tokens * (2 * half) + i;
    float* low = dx + row * ldx + column / half * (2 * half) + i;
    const float cosine = turn[0], sine = turn[half], a = low[0], b = low[half];
    low[0] = fmaf(b, sine, a * cosine);
    low[half] = fmaf(-a, sine, b * cosine);
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

void soft_cap_gradient(const Exec& exec, std::int64_t n, float cap, const float* y, float* dx) {
  for_rows(exec, 1, n, SoftCapGradient{cap, y, dx});
}

void sigmoid_gradient(const Exec& exec, std::int64_t n, const float* y, float* dx) {
  for_rows(exec, 1, n, SigmoidGradient{y, dx});
}

void rope_gradient(const Exec& exec, std::int64_t n_rows, std::int64_t n_tokens, std::int64_t n_heads,
                   std::int64_t head_dim, const float* cos_sin, float* dx, std::int64_t ldx) {
  for_rows(exec, n_rows, n_heads * (head_dim / 2), RopeGradient{n_tokens, head_dim / 2, cos_sin, dx, ldx});
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
          .divergence = gpu::divergence};
}

}  // namespace voronoi::kernels
