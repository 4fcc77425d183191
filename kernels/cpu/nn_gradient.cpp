// Derivatives of the row-wise and elementwise operations. Sums over rows run over parts of fixed size, which are added
// in their order.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/nn_gradient.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include <algorithm>
#include <cmath>

#include "core/types.h"
#include "kernels/cpu/nn-inl.h"
#include "kernels/cpu/routing.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/kernels.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {
namespace {

/// body(one vector of each `in`, those of `out` to be set) for every vector of n places; an `out` may be an `in`.
template <std::size_t kIn, std::size_t kOut, class Body>
HWY_INLINE void map_places(std::int64_t n, const float* const (&in)[kIn], float* const (&out)[kOut], const Body& body) {
  const FloatTag d;
  FloatVector from[kIn], to[kOut];
  for_each_vector(
      n,
      [&](std::int64_t i) HWY_ATTR {
        for (std::size_t a = 0; a < kIn; ++a) from[a] = hn::LoadU(d, in[a] + i);
        body(from, to);
        for (std::size_t a = 0; a < kOut; ++a) hn::StoreU(to[a], d, out[a] + i);
      },
      [&](std::int64_t i, std::int64_t rest) HWY_ATTR {
        float buffer[kWidth] = {};
        for (std::size_t a = 0; a < kIn; ++a) {
          std::copy_n(in[a] + i, rest, buffer);
          from[a] = hn::LoadU(d, buffer);
        }
        body(from, to);
        for (std::size_t a = 0; a < kOut; ++a) {
          hn::StoreU(to[a], d, buffer);
          std::copy_n(buffer, rest, out[a] + i);
        }
      });
}

/// With r = 1 / sqrt(mean(x^2) + eps): dx = r weight d_out - x r^3 mean(x weight d_out), d_weight += d_out x r.
template <bool kAccumulate, bool kWithWeight>
HWY_INLINE void rms_norm_row(std::int64_t dim, const float* x, const float* weight, float eps, const float* d_out,
                             float* dx, float* d_weight) {
  const FloatTag d;
  const float scale = 1.0F / std::sqrt(sum_of_squares(dim, x) / static_cast<float>(dim) + eps);
  const float along = sum_over<3>(dim, {x, weight, d_out}, [](const FloatVector* v, FloatVector sum) HWY_ATTR {
    return hn::MulAdd(v[0], hn::Mul(v[1], v[2]), sum);
  });
  const FloatVector factor = hn::Set(d, scale);
  const FloatVector back = hn::Set(d, scale * scale * scale * (along / static_cast<float>(dim)));
  const auto slope = [&](const FloatVector* v) HWY_ATTR {
    const FloatVector value = hn::NegMulAdd(v[0], back, hn::Mul(factor, hn::Mul(v[1], v[2])));
    return kAccumulate ? hn::Add(v[3], value) : value;
  };
  if constexpr (kWithWeight)
    map_places<5, 2>(dim, {x, weight, d_out, kAccumulate ? dx : x, d_weight}, {dx, d_weight},
                     [&](const FloatVector* v, FloatVector* to) HWY_ATTR {
                       to[0] = slope(v);
                       to[1] = hn::MulAdd(v[2], hn::Mul(v[0], factor), v[4]);
                     });
  else
    map_places<4, 1>(dim, {x, weight, d_out, kAccumulate ? dx : x}, {dx},
                     [&](const FloatVector* v, FloatVector* to) HWY_ATTR { to[0] = slope(v); });
}

void rms_norm_gradient_row(std::int64_t dim, const float* x, const float* weight, float eps, const float* d_out,
                           bool accumulate, float* dx, float* d_weight) {
  if (d_weight != nullptr)
    accumulate ? rms_norm_row<true, true>(dim, x, weight, eps, d_out, dx, d_weight)
               : rms_norm_row<false, true>(dim, x, weight, eps, d_out, dx, d_weight);
  else
    accumulate ? rms_norm_row<true, false>(dim, x, weight, eps, d_out, dx, d_weight)
               : rms_norm_row<false, false>(dim, x, weight, eps, d_out, dx, d_weight);
}

/// Of f(gate) * up with f(x) = x s, s = 1 / (1 + exp(-exponent(x))): f' = s + x s (1 - s) exponent'(x).
template <class Exponent, class Slope>
HWY_INLINE void gate_gradient(std::int64_t n, const float* gate, const float* up, const float* d_out, float* d_gate,
                              float* d_up, const Exponent& exponent, const Slope& slope) {
  const FloatTag d;
  const FloatVector one = hn::Set(d, 1.0F), limit = hn::Set(d, 88.0F);
  map_places<3, 2>(n, {gate, up, d_out}, {d_gate, d_up}, [&](const FloatVector* v, FloatVector* to) HWY_ATTR {
    const FloatVector exponential = hn::Exp(d, hn::Min(hn::Neg(exponent(v[0])), limit));
    const FloatVector share = hn::Div(one, hn::Add(one, exponential));
    // Beyond the limit s (1 - s) is nothing; there x stays small enough for its powers.
    const FloatVector bounded = hn::Max(hn::Min(v[0], limit), hn::Neg(limit));
    const FloatVector bent = hn::Mul(hn::Mul(bounded, slope(bounded)), hn::Mul(hn::Mul(exponential, share), share));
    to[0] = hn::Mul(hn::Mul(v[2], v[1]), hn::Add(share, bent));
    to[1] = hn::Mul(v[2], hn::Mul(v[0], share));
  });
}

void swiglu_gradient(std::int64_t n, const float* gate, const float* up, const float* d_out, float* d_gate,
                     float* d_up) {
  gate_gradient(
      n, gate, up, d_out, d_gate, d_up, [](FloatVector x) HWY_ATTR { return x; },
      [](FloatVector) HWY_ATTR { return hn::Set(FloatTag(), 1.0F); });
}

void geglu_gradient(std::int64_t n, const float* gate, const float* up, const float* d_out, float* d_gate,
                    float* d_up) {
  gate_gradient(
      n, gate, up, d_out, d_gate, d_up, [](FloatVector x) HWY_ATTR { return gelu_exponent(x); },
      [](FloatVector x) HWY_ATTR {
        const FloatTag d;
        const FloatVector square = hn::MulAdd(hn::Mul(x, x), hn::Set(d, 3 * kGeluCubic), hn::Set(d, 1.0F));
        return hn::Mul(square, hn::Set(d, kGeluTwiceRoot));
      });
}

/// With g and u the clamped values and s = 1 / (1 + exp(-1.702 g)): by g (u + 1) (s + 1.702 g s (1 - s)), by u g s.
void clamped_swiglu_gradient(std::int64_t n, float limit, const float* gate, const float* up, const float* d_out,
                             float* d_gate, float* d_up) {
  const FloatTag d;
  const FloatVector high = hn::Set(d, limit), low = hn::Set(d, -limit), one = hn::Set(d, 1.0F),
                    slope = hn::Set(d, kClampedSlope), furthest = hn::Set(d, 88.0F);
  map_places<3, 2>(n, {gate, up, d_out}, {d_gate, d_up}, [&](const FloatVector* v, FloatVector* to) HWY_ATTR {
    const FloatVector g = hn::Min(v[0], high), u = hn::Clamp(v[1], low, high);
    const FloatVector exponential = hn::Exp(d, hn::Min(hn::Neg(hn::Mul(g, slope)), furthest));
    const FloatVector share = hn::Div(one, hn::Add(one, exponential));
    const FloatVector bounded = hn::Max(g, hn::Neg(furthest));
    const FloatVector bent = hn::Mul(hn::Mul(bounded, slope), hn::Mul(hn::Mul(exponential, share), share));
    const FloatVector by_gate = hn::Mul(hn::Mul(v[2], hn::Add(u, one)), hn::Add(share, bent));
    const FloatVector by_up = hn::Mul(v[2], hn::Mul(g, share));
    to[0] = hn::IfThenElseZero(hn::Le(v[0], high), by_gate);
    to[1] = hn::IfThenElseZero(hn::Le(hn::Abs(v[1]), high), by_up);
  });
}

void soft_cap_gradient(std::int64_t n, float cap, const float* y, float* dx) {
  const FloatTag d;
  const FloatVector one = hn::Set(d, 1.0F), whole = hn::Set(d, cap);
  map_places<2, 1>(n, {y, dx}, {dx}, [&](const FloatVector* v, FloatVector* to) HWY_ATTR {
    const FloatVector share = hn::Div(v[0], whole);
    to[0] = hn::Mul(v[1], hn::NegMulAdd(share, share, one));
  });
}

void sigmoid_gradient(std::int64_t n, const float* y, float* dx) {
  const FloatVector one = hn::Set(FloatTag(), 1.0F);
  map_places<2, 1>(n, {y, dx}, {dx}, [&](const FloatVector* v, FloatVector* to) HWY_ATTR {
    to[0] = hn::Mul(v[1], hn::Mul(v[0], hn::Sub(one, v[0])));
  });
}

void add_to(std::int64_t n, const float* x, float* sum) {
  map_places<2, 1>(n, {x, sum}, {sum},
                   [](const FloatVector* v, FloatVector* to) HWY_ATTR { to[0] = hn::Add(v[1], v[0]); });
}

/// dx = weight * d_out; returns d_out . x. dx may be x.
float weighted_row(std::int64_t dim, const float* x, float weight, const float* d_out, float* dx) {
  const FloatVector factor = hn::Set(FloatTag(), weight);
  const float d_weight = dot(dim, d_out, x);
  map_places<1, 1>(dim, {d_out}, {dx},
                   [&](const FloatVector* v, FloatVector* to) HWY_ATTR { to[0] = hn::Mul(factor, v[0]); });
  return d_weight;
}

float square_sum(std::int64_t dim, const float* x) { return dot(dim, x, x); }

/// factor * softmax: exp(logit - largest) times this.
float share_of_row(const LogSumExp& row, float factor) {
  return factor * static_cast<float>(std::exp(static_cast<double>(row.largest) - row.value));
}

double cross_entropy_row(std::int64_t vocab, float factor, std::int32_t target, float* logits) {
  const FloatTag d;
  const LogSumExp row = log_sum_exp(vocab, logits);
  const double nll = row.value - static_cast<double>(logits[target]);
  const FloatVector shift = hn::Set(d, row.largest), share = hn::Set(d, share_of_row(row, factor));
  map_range(vocab, logits, [&](FloatVector v) HWY_ATTR { return hn::Mul(hn::Exp(d, hn::Sub(v, shift)), share); });
  logits[target] -= factor;
  return nll;
}

double divergence_row(std::int64_t vocab, float factor, const float* teacher, float* logits) {
  const FloatTag d;
  const LogSumExp row = log_sum_exp(vocab, logits);
  const float largest = largest_of(vocab, teacher);
  // With e the exponentials of the teacher's logits t: its softmax p is e / sum(e), and sum of p (log p - log q) is
  // sum(e (t - logits)) / sum(e) - log(sum(e)) + log(sum(exp(logits))).
  const DoubleTag dd;
  const DoubleVector from_shift = hn::Set(dd, static_cast<double>(largest));
  const auto sums = wide_sums<2>(
      vocab,
      [&](std::int64_t i, DoubleVector* terms) HWY_ATTR {
        const DoubleVector t = widened(teacher + i);
        terms[0] = hn::Exp(dd, hn::Sub(t, from_shift));
        terms[1] = hn::Mul(terms[0], hn::Sub(t, widened(logits + i)));
      },
      [&](std::int64_t i, double* terms) {
        const double t = static_cast<double>(teacher[i]);
        terms[0] = std::exp(t - static_cast<double>(largest));
        terms[1] = terms[0] * (t - static_cast<double>(logits[i]));
      });
  const LogSumExp from{largest, std::log(sums[0]) + static_cast<double>(largest)};
  const double divergence = sums[1] / sums[0] - from.value + row.value;
  const FloatVector shift = hn::Set(d, row.largest), share = hn::Set(d, share_of_row(row, factor)),
                    teacher_shift = hn::Set(d, from.largest), teacher_share = hn::Set(d, share_of_row(from, factor));
  map_places<2, 1>(vocab, {teacher, logits}, {logits}, [&](const FloatVector* v, FloatVector* to) HWY_ATTR {
    const FloatVector p = hn::Mul(hn::Exp(d, hn::Sub(v[0], teacher_shift)), teacher_share);
    to[0] = hn::Sub(hn::Mul(hn::Exp(d, hn::Sub(v[1], shift)), share), p);
  });
  return divergence;
}

}  // namespace
}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {
namespace {

HWY_EXPORT(rms_norm_gradient_row);
HWY_EXPORT(swiglu_gradient);
HWY_EXPORT(geglu_gradient);
HWY_EXPORT(clamped_swiglu_gradient);
HWY_EXPORT(soft_cap_gradient);
HWY_EXPORT(sigmoid_gradient);
HWY_EXPORT(add_to);
HWY_EXPORT(weighted_row);
HWY_EXPORT(square_sum);
HWY_EXPORT(cross_entropy_row);
HWY_EXPORT(divergence_row);

/// sum [dim] += the sums that body(first_row, n_rows, part [dim], zeros at first) adds up over parts of the rows.
template <class Body>
void sum_row_parts(const Exec& exec, std::int64_t n_rows, std::int64_t dim, float* sum, const Body& body) {
  if (dim == 0) return;
  constexpr std::int64_t kPartValues = 32768, kLeastRows = 64, kColumns = 1024;
  const std::int64_t rows = std::max(kLeastRows, kPartValues / dim), n_parts = core::ceil_div(n_rows, rows);
  Scratch<float> parts(n_parts * dim);
  exec.pool->parallel_for(n_parts, [&](std::int64_t part) {
    float* values = parts.data() + part * dim;
    std::fill_n(values, dim, 0.0F);
    body(part * rows, std::min(rows, n_rows - part * rows), values);
  });
  exec.pool->parallel_for(core::ceil_div(dim, kColumns), [&](std::int64_t stripe) {
    const std::int64_t first = stripe * kColumns, count = std::min(kColumns, dim - first);
    for (std::int64_t part = 0; part < n_parts; ++part)
      HWY_DYNAMIC_DISPATCH(add_to)(count, parts.data() + part * dim + first, sum + first);
  });
}

void rms_norm(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
              const float* weight, float eps, const float* d_out, std::int64_t ld_out, bool accumulate, float* dx,
              std::int64_t ld_dx, float* d_weight) {
  const auto run = [&](std::int64_t first, std::int64_t rows, float* part) {
    for (std::int64_t r = first; r < first + rows; ++r) HWY_DYNAMIC_DISPATCH(rms_norm_gradient_row)
    (dim, x + r * ldx, weight, eps, d_out + r * ld_out, accumulate, dx + r * ld_dx, part);
  };
  if (d_weight != nullptr)
    sum_row_parts(exec, n_rows, dim, d_weight, run);
  else
    for_row_chunks(exec, n_rows, dim, [&](std::int64_t first, std::int64_t rows) { run(first, rows, nullptr); });
}

void swiglu(const Exec& exec, std::int64_t n, const float* gate, const float* up, const float* d_out, float* d_gate,
            float* d_up) {
  for_row_chunks(exec, n, 1, [&](std::int64_t i, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(swiglu_gradient)(count, gate + i, up + i, d_out + i, d_gate + i, d_up + i);
  });
}

void geglu(const Exec& exec, std::int64_t n, const float* gate, const float* up, const float* d_out, float* d_gate,
           float* d_up) {
  for_row_chunks(exec, n, 1, [&](std::int64_t i, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(geglu_gradient)(count, gate + i, up + i, d_out + i, d_gate + i, d_up + i);
  });
}

void clamped_swiglu(const Exec& exec, std::int64_t n, float limit, const float* gate, const float* up,
                    const float* d_out, float* d_gate, float* d_up) {
  for_row_chunks(exec, n, 1, [&](std::int64_t i, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(clamped_swiglu_gradient)
    (count, limit, gate + i, up + i, d_out + i, d_gate + i, d_up + i);
  });
}

void soft_cap(const Exec& exec, std::int64_t n, float cap, const float* y, float* dx) {
  for_row_chunks(exec, n, 1, [&](std::int64_t i, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(soft_cap_gradient)(count, cap, y + i, dx + i);
  });
}

void sigmoid(const Exec& exec, std::int64_t n, const float* y, float* dx) {
  for_row_chunks(exec, n, 1, [&](std::int64_t i, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(sigmoid_gradient)(count, y + i, dx + i);
  });
}

void column_sums(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                 float* sum) {
  sum_row_parts(exec, n_rows, dim, sum, [&](std::int64_t first, std::int64_t rows, float* part) {
    for (std::int64_t r = first; r < first + rows; ++r) HWY_DYNAMIC_DISPATCH(add_to)(dim, x + r * ldx, part);
  });
}

void route(const Exec& exec, const RouteShape& shape, const float* logits, const std::int32_t* expert,
           const float* weight, const float* d_weight, float* d_logits) {
  const std::int64_t n_experts = shape.n_experts, top_k = shape.top_k;
  for_row_chunks(exec, shape.n_rows, n_experts, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t r = first; r < first + rows; ++r)
      route_gradient_row(shape, logits + r * n_experts, expert + r * top_k, weight + r * top_k, d_weight + r * top_k,
                         d_logits + r * n_experts);
  });
}

void weighted_rows(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, const std::int32_t* row,
                   const float* weight, const float* d_out, float* dx, float* d_weight) {
  for_row_chunks(exec, n_rows, dim, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t i = first; i < first + rows; ++i)
      d_weight[i] = HWY_DYNAMIC_DISPATCH(weighted_row)(dim, x + i * dim, weight[i],
                                                       d_out + (row == nullptr ? i : row[i]) * dim, dx + i * dim);
  });
}

void square_sums(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                 float* sum) {
  for_row_chunks(exec, n_rows, dim, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t i = first; i < first + rows; ++i) sum[i] = HWY_DYNAMIC_DISPATCH(square_sum)(dim, x + i * ldx);
  });
}

void scatter_rows(const Exec& exec, const std::int32_t* ids, std::int64_t n_ids, std::int64_t dim, const float* x,
                  float* sum) {
  // A task has some columns of all rows, so that rows of one id come in their order.
  constexpr std::int64_t kColumns = 64;
  exec.pool->parallel_for(core::ceil_div(dim, kColumns), [&](std::int64_t stripe) {
    const std::int64_t first = stripe * kColumns, count = std::min(kColumns, dim - first);
    for (std::int64_t i = 0; i < n_ids; ++i)
      HWY_DYNAMIC_DISPATCH(add_to)(count, x + i * dim + first, sum + ids[i] * dim + first);
  });
}

void cross_entropy(const Exec& exec, std::int64_t n_rows, std::int64_t vocab, float factor, const std::int32_t* target,
                   float* logits, std::int64_t ld, double* nll) {
  exec.pool->parallel_for(n_rows, [&](std::int64_t r) {
    nll[r] = HWY_DYNAMIC_DISPATCH(cross_entropy_row)(vocab, factor, target[r], logits + r * ld);
  });
}

void divergence(const Exec& exec, std::int64_t n_rows, std::int64_t vocab, float factor, const float* teacher,
                float* logits, std::int64_t ld, double* result) {
  exec.pool->parallel_for(n_rows, [&](std::int64_t r) {
    result[r] = HWY_DYNAMIC_DISPATCH(divergence_row)(vocab, factor, teacher + r * ld, logits + r * ld);
  });
}

}  // namespace

void cpu_rope_gradient(const Exec& exec, const RopeShape& shape, const float* cos_sin, float* dx, std::int64_t ldx);
void cpu_attention_gradient(const Exec& exec, const AttentionShape& shape, const float* q, const float* k,
                            const float* v, const float* out, const float* d_out, float* dq, float* dk, float* dv,
                            float* d_sinks);

NnGradientKernels cpu_nn_gradient_kernels() {
  return {.rms_norm = rms_norm,
          .rope = cpu_rope_gradient,
          .attention = cpu_attention_gradient,
          .swiglu = swiglu,
          .geglu = geglu,
          .soft_cap = soft_cap,
          .sigmoid = sigmoid,
          .column_sums = column_sums,
          .route = route,
          .weighted_rows = weighted_rows,
          .square_sums = square_sums,
          .scatter_rows = scatter_rows,
          .cross_entropy = cross_entropy,
          .divergence = divergence,
          .layer_norm = cpu_layer_norm_gradient,
          .clamped_swiglu = clamped_swiglu,
          .sum_heads = cpu_sum_heads};
}

}  // namespace voronoi::kernels
#endif
