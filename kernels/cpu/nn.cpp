// Row-wise and elementwise operations.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/nn.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/types.h"
#include "kernels/cpu/nn-inl.h"
#include "kernels/cpu/routing.h"
#include "kernels/cpu/rows.h"
#include "kernels/kernels.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {
namespace {

void rms_norm_rows(std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx, const float* weight,
                   float eps, float* out, std::int64_t ld_out) {
  const FloatTag d;
  for (std::int64_t r = 0; r < n_rows; ++r, x += ldx, out += ld_out) {
    const float scale = 1.0F / std::sqrt(sum_of_squares(dim, x) / static_cast<float>(dim) + eps);
    const FloatVector factor = hn::Set(d, scale);
    for_each_vector(
        dim,
        [&](std::int64_t i) HWY_ATTR {
          hn::StoreU(hn::Mul(hn::LoadU(d, weight + i), hn::Mul(hn::LoadU(d, x + i), factor)), d, out + i);
        },
        [&](std::int64_t i, std::int64_t n) {
          for (std::int64_t j = i; j < i + n; ++j) out[j] = weight[j] * (x[j] * scale);
        });
  }
}

/// Pairs (x[i], x[i + half]) of a head, turned by the angles; kBack: by their opposites. kInterleaved: pairs (x[2 i],
/// x[2 i + 1]).
template <bool kBack, bool kInterleaved>
HWY_INLINE void turn_head(std::int64_t half, const float* cosine, const float* sine, float* x) {
  const FloatTag d;
  const auto turn = [&](const float* c, const float* s, float* l, float* u) HWY_ATTR {
    const FloatVector vc = hn::LoadU(d, c);
    const FloatVector vs = kBack ? hn::Neg(hn::LoadU(d, s)) : hn::LoadU(d, s);
    FloatVector vl, vu;
    if constexpr (kInterleaved) {
      hn::LoadInterleaved2(d, l, vl, vu);
    } else {
      vl = hn::LoadU(d, l);
      vu = hn::LoadU(d, u);
    }
    const FloatVector low = hn::NegMulAdd(vu, vs, hn::Mul(vl, vc)), high = hn::MulAdd(vl, vs, hn::Mul(vu, vc));
    if constexpr (kInterleaved) {
      hn::StoreInterleaved2(low, high, d, l);
    } else {
      hn::StoreU(low, d, l);
      hn::StoreU(high, d, u);
    }
  };
  constexpr std::int64_t kStep = kInterleaved ? 2 : 1;
  float* upper = x + half;
  for_each_vector(
      half, [&](std::int64_t i) HWY_ATTR { turn(cosine + i, sine + i, x + kStep * i, upper + i); },
      [&](std::int64_t i, std::int64_t n) HWY_ATTR {
        float buffer[3][kWidth] = {}, lower[2 * kWidth] = {};
        std::copy_n(cosine + i, n, buffer[0]);
        std::copy_n(sine + i, n, buffer[1]);
        std::copy_n(x + kStep * i, kStep * n, lower);
        if constexpr (!kInterleaved) std::copy_n(upper + i, n, buffer[2]);
        turn(buffer[0], buffer[1], lower, buffer[2]);
        std::copy_n(lower, kStep * n, x + kStep * i);
        if constexpr (!kInterleaved) std::copy_n(buffer[2], n, upper + i);
      });
}

template <bool kBack>
HWY_INLINE void turn_rows(std::int64_t first_row, std::int64_t n_rows, const RopeShape& shape, const float* cos_sin,
                          float* x, std::int64_t ldx) {
  const std::int64_t half = shape.n_turned / 2;
  for (std::int64_t r = first_row; r < first_row + n_rows; ++r) {
    const float* cosine = cos_sin + r % shape.n_tokens * shape.n_turned;
    for (std::int64_t h = 0; h < shape.n_heads; ++h) {
      float* head = x + r * ldx + h * shape.head_dim;
      if (shape.interleaved)
        turn_head<kBack, true>(half, cosine, cosine + half, head);
      else
        turn_head<kBack, false>(half, cosine, cosine + half, head);
    }
  }
}

void rope_rows(std::int64_t first_row, std::int64_t n_rows, const RopeShape& shape, const float* cos_sin, float* x,
               std::int64_t ldx) {
  turn_rows<false>(first_row, n_rows, shape, cos_sin, x, ldx);
}
void rope_back_rows(std::int64_t first_row, std::int64_t n_rows, const RopeShape& shape, const float* cos_sin, float* x,
                    std::int64_t ldx) {
  turn_rows<true>(first_row, n_rows, shape, cos_sin, x, ldx);
}

/// out = f(gate) * up with f(x) = x / (1 + exp(-exponent(x))).
template <class Exponent>
HWY_INLINE void gate_range(std::int64_t n, const float* gate, const float* up, float* out, const Exponent& exponent) {
  const FloatTag d;
  const auto combine = [&](const float* g, const float* u, float* o) HWY_ATTR {
    const FloatVector vg = hn::LoadU(d, g);
    // exp's domain ends at 104; beyond 88 the quotient is nothing beside any activation anyway.
    const FloatVector exponential = hn::Exp(d, hn::Min(hn::Neg(exponent(vg)), hn::Set(d, 88.0F)));
    const FloatVector active = hn::Div(vg, hn::Add(hn::Set(d, 1.0F), exponential));
    hn::StoreU(hn::Mul(active, hn::LoadU(d, u)), d, o);
  };
  for_each_vector(
      n, [&](std::int64_t i) HWY_ATTR { combine(gate + i, up + i, out + i); },
      [&](std::int64_t i, std::int64_t rest) HWY_ATTR {
        float buffer[2][kWidth] = {};
        std::copy_n(gate + i, rest, buffer[0]);
        std::copy_n(up + i, rest, buffer[1]);
        combine(buffer[0], buffer[1], buffer[0]);
        std::copy_n(buffer[0], rest, out + i);
      });
}

void swiglu_range(std::int64_t n, const float* gate, const float* up, float* out) {
  gate_range(n, gate, up, out, [](FloatVector x) HWY_ATTR { return x; });
}

void geglu_range(std::int64_t n, const float* gate, const float* up, float* out) {
  gate_range(n, gate, up, out, [](FloatVector x) HWY_ATTR { return gelu_exponent(x); });
}

void clamped_swiglu_range(std::int64_t n, float limit, const float* gate, const float* up, float* out) {
  const FloatTag d;
  const FloatVector high = hn::Set(d, limit), low = hn::Set(d, -limit), one = hn::Set(d, 1.0F),
                    slope = hn::Set(d, -kClampedSlope);
  const auto combine = [&](const float* g, const float* u, float* o) HWY_ATTR {
    const FloatVector vg = hn::Min(hn::LoadU(d, g), high), vu = hn::Clamp(hn::LoadU(d, u), low, high);
    const FloatVector exponential = hn::Exp(d, hn::Min(hn::Mul(vg, slope), hn::Set(d, 88.0F)));
    hn::StoreU(hn::Mul(hn::Add(vu, one), hn::Div(vg, hn::Add(one, exponential))), d, o);
  };
  for_each_vector(
      n, [&](std::int64_t i) HWY_ATTR { combine(gate + i, up + i, out + i); },
      [&](std::int64_t i, std::int64_t rest) HWY_ATTR {
        float buffer[2][kWidth] = {};
        std::copy_n(gate + i, rest, buffer[0]);
        std::copy_n(up + i, rest, buffer[1]);
        combine(buffer[0], buffer[1], buffer[0]);
        std::copy_n(buffer[0], rest, out + i);
      });
}

void scale_range(std::int64_t n, float factor, float* x) {
  map_range(n, x, [factor](FloatVector v) HWY_ATTR { return hn::Mul(v, hn::Set(FloatTag(), factor)); });
}

void soft_cap_range(std::int64_t n, float cap, float* x) {
  map_range(n, x, [cap](FloatVector v) HWY_ATTR {
    const FloatTag d;
    return hn::Mul(hn::Tanh(d, hn::Div(v, hn::Set(d, cap))), hn::Set(d, cap));
  });
}

void sigmoid_range(std::int64_t n, float* x) {
  map_range(n, x, [](FloatVector v) HWY_ATTR {
    const FloatTag d;
    const FloatVector one = hn::Set(d, 1.0F);
    return hn::Div(one, hn::Add(one, hn::Exp(d, hn::Min(hn::Neg(v), hn::Set(d, 88.0F)))));
  });
}

/// exp(logits - largest) of a row into `exponentials`, which holds kLanes more than n rounded up; returns their sum.
float softmax_row(std::int64_t n, const float* logits, float largest, float* exponentials) {
  const FloatTag d;
  const std::int64_t padded = core::ceil_div(n, kLanes) * kLanes;
  std::copy_n(logits, n, exponentials);
  std::fill(exponentials + n, exponentials + padded, 0.0F);
  map_range(padded, exponentials, [largest](FloatVector v) HWY_ATTR {
    return hn::Exp(FloatTag(), hn::Sub(v, hn::Set(FloatTag(), largest)));
  });
  std::fill(exponentials + n, exponentials + padded, 0.0F);
  FloatVector sums[kParts];
  for (auto& sum : sums) sum = hn::Zero(d);
  for (std::int64_t i = 0; i < padded; i += kLanes)
    for (std::int64_t part = 0; part < kParts; ++part)
      sums[part] = hn::Add(sums[part], hn::LoadU(d, exponentials + i + part * kWidth));
  return sum_lanes(sums);
}

void add_weighted_range(std::int64_t n, float weight, const float* y, float* x) {
  const FloatTag d;
  const FloatVector factor = hn::Set(d, weight);
  const auto add = [&](const float* from, float* to)
                       HWY_ATTR { hn::StoreU(hn::MulAdd(factor, hn::LoadU(d, from), hn::LoadU(d, to)), d, to); };
  for_each_vector(
      n, [&](std::int64_t i) HWY_ATTR { add(y + i, x + i); },
      [&](std::int64_t i, std::int64_t rest) HWY_ATTR {
        float buffer[2][kWidth] = {};
        std::copy_n(y + i, rest, buffer[0]);
        std::copy_n(x + i, rest, buffer[1]);
        add(buffer[0], buffer[1]);
        std::copy_n(buffer[1], rest, x + i);
      });
}

void add_range(std::int64_t n, const float* y, float* x) {
  const FloatTag d;
  for_each_vector(
      n, [&](std::int64_t i) HWY_ATTR { hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, x + i); },
      [&](std::int64_t i, std::int64_t rest) {
        for (std::int64_t j = i; j < i + rest; ++j) x[j] += y[j];
      });
}

double nll_row(std::int64_t vocab, const float* logits, std::int32_t target) {
  return log_sum_exp(vocab, logits).value - static_cast<double>(logits[target]);
}

std::int32_t argmax_row(std::int64_t vocab, const float* logits) {
  return static_cast<std::int32_t>(std::find(logits, logits + vocab, largest_of(vocab, logits)) - logits);
}

}  // namespace
}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {
namespace {

HWY_EXPORT(rms_norm_rows);
HWY_EXPORT(rope_rows);
HWY_EXPORT(rope_back_rows);
HWY_EXPORT(swiglu_range);
HWY_EXPORT(add_range);
HWY_EXPORT(nll_row);
HWY_EXPORT(argmax_row);
HWY_EXPORT(geglu_range);
HWY_EXPORT(clamped_swiglu_range);
HWY_EXPORT(scale_range);
HWY_EXPORT(soft_cap_range);
HWY_EXPORT(sigmoid_range);
HWY_EXPORT(softmax_row);
HWY_EXPORT(add_weighted_range);

void rms_norm(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
              const float* weight, float eps, float* out, std::int64_t ld_out) {
  for_row_chunks(exec, n_rows, dim, [&](std::int64_t first, std::int64_t rows) {
    HWY_DYNAMIC_DISPATCH(rms_norm_rows)(rows, dim, x + first * ldx, ldx, weight, eps, out + first * ld_out, ld_out);
  });
}

void rope(const Exec& exec, const RopeShape& shape, const float* cos_sin, float* x, std::int64_t ldx) {
  for_row_chunks(exec, shape.n_rows, shape.n_heads * shape.n_turned, [&](std::int64_t first, std::int64_t rows) {
    HWY_DYNAMIC_DISPATCH(rope_rows)(first, rows, shape, cos_sin, x, ldx);
  });
}

}  // namespace

/// See NnGradientKernels::rope.
void cpu_rope_gradient(const Exec& exec, const RopeShape& shape, const float* cos_sin, float* dx, std::int64_t ldx) {
  for_row_chunks(exec, shape.n_rows, shape.n_heads * shape.n_turned, [&](std::int64_t first, std::int64_t rows) {
    HWY_DYNAMIC_DISPATCH(rope_back_rows)(first, rows, shape, cos_sin, dx, ldx);
  });
}

namespace {

void swiglu(const Exec& exec, std::int64_t n, const float* gate, const float* up, float* out) {
  for_row_chunks(exec, n, 1, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(swiglu_range)(count, gate + first, up + first, out + first);
  });
}

void add(const Exec& exec, std::int64_t n, const float* y, float* x) {
  for_row_chunks(exec, n, 1, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(add_range)(count, y + first, x + first);
  });
}

void add_bias(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* bias, float* x, std::int64_t ldx) {
  for_row_chunks(exec, n_rows, dim, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t r = first; r < first + rows; ++r) HWY_DYNAMIC_DISPATCH(add_range)(dim, bias, x + r * ldx);
  });
}

void nll(const Exec& exec, std::int64_t n_rows, std::int64_t vocab, const float* logits, std::int64_t ld,
         const std::int32_t* target, double* result) {
  exec.pool->parallel_for(
      n_rows, [&](std::int64_t r) { result[r] = HWY_DYNAMIC_DISPATCH(nll_row)(vocab, logits + r * ld, target[r]); });
}

void argmax(const Exec& exec, std::int64_t n_rows, std::int64_t vocab, const float* logits, std::int64_t ld,
            std::int32_t* place) {
  exec.pool->parallel_for(n_rows,
                          [&](std::int64_t r) { place[r] = HWY_DYNAMIC_DISPATCH(argmax_row)(vocab, logits + r * ld); });
}

void geglu(const Exec& exec, std::int64_t n, const float* gate, const float* up, float* out) {
  for_row_chunks(exec, n, 1, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(geglu_range)(count, gate + first, up + first, out + first);
  });
}

void clamped_swiglu(const Exec& exec, std::int64_t n, float limit, const float* gate, const float* up, float* out) {
  for_row_chunks(exec, n, 1, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(clamped_swiglu_range)(count, limit, gate + first, up + first, out + first);
  });
}

void scale(const Exec& exec, std::int64_t n, float factor, float* x) {
  for_row_chunks(exec, n, 1, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(scale_range)(count, factor, x + first);
  });
}

void soft_cap(const Exec& exec, std::int64_t n, float cap, float* x) {
  for_row_chunks(exec, n, 1, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(soft_cap_range)(count, cap, x + first);
  });
}

void sigmoid(const Exec& exec, std::int64_t n, float* x) {
  for_row_chunks(exec, n, 1, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(sigmoid_range)(count, x + first);
  });
}

/// Softmax over all experts.
void route_row(const RouteShape& shape, const float* logits, float* exponentials, std::int32_t* expert, float* weight) {
  const std::int64_t n_experts = shape.n_experts, top_k = shape.top_k;
  choose_largest(n_experts, top_k, logits, expert);
  float sum = HWY_DYNAMIC_DISPATCH(softmax_row)(n_experts, logits, logits[expert[0]], exponentials);
  // The vector exponential takes NaN for minus infinity.
  if (std::any_of(logits, logits + n_experts, [](float logit) { return std::isnan(logit); }))
    sum = std::numeric_limits<float>::quiet_NaN();
  float chosen = 0;
  for (std::int64_t j = 0; j < top_k; ++j) {
    weight[j] = exponentials[expert[j]] / sum;
    chosen += weight[j];
  }
  if (shape.renormalise)
    for (std::int64_t j = 0; j < top_k; ++j) weight[j] /= chosen;
}

void route(const Exec& exec, const RouteShape& shape, const float* logits, const float* bias, std::int32_t* expert,
           float* weight) {
  for_row_chunks(exec, shape.n_rows, shape.n_experts * shape.top_k, [&](std::int64_t first, std::int64_t rows) {
    std::vector<float> work(static_cast<std::size_t>(shape.n_experts + 64));
    for (std::int64_t r = first; r < first + rows; ++r) {
      const float* row = logits + r * shape.n_experts;
      if (shape.sigmoid)
        route_sigmoid_row(shape, row, bias, work.data(), expert + r * shape.top_k, weight + r * shape.top_k);
      else
        route_row(shape, row, work.data(), expert + r * shape.top_k, weight + r * shape.top_k);
    }
  });
}

void add_weighted_rows(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, const std::int32_t* row,
                       const float* weight, float* out) {
  for_row_chunks(exec, n_rows, dim, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t i = first; i < first + rows; ++i)
      HWY_DYNAMIC_DISPATCH(add_weighted_range)(dim, weight[i], x + i * dim, out + (row == nullptr ? i : row[i]) * dim);
  });
}

}  // namespace

void cpu_attention(const Exec& exec, const AttentionShape& shape, const float* q, const float* k, const float* v,
                   float* out);
void cpu_cached_attention(const Exec& exec, const AttentionShape& shape, std::int64_t n_past, const float* q,
                          const float* k, const float* v, float* out);

NnKernels cpu_nn_kernels() {
  return {.rms_norm = rms_norm,
          .rope = rope,
          .attention = cpu_attention,
          .swiglu = swiglu,
          .add = add,
          .add_bias = add_bias,
          .nll = nll,
          .geglu = geglu,
          .scale = scale,
          .soft_cap = soft_cap,
          .sigmoid = sigmoid,
          .route = route,
          .add_weighted_rows = add_weighted_rows,
          .cached_attention = cpu_cached_attention,
          .argmax = argmax,
          .layer_norm = cpu_layer_norm,
          .clamped_swiglu = clamped_swiglu,
          .copy_heads = cpu_copy_heads};
}

}  // namespace voronoi::kernels
#endif
