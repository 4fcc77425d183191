// The gated delta rule and the operations around it. Columns of a state never meet: a task of the forward pass takes
// kColumns of them, which stay in the first cache, through all tokens of a sequence.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/delta_rule.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/types.h"
#include "kernels/cpu/nn-inl.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/kernels.h"

#ifndef VORONOI_KERNELS_CPU_DELTA_RULE_ONCE
#define VORONOI_KERNELS_CPU_DELTA_RULE_ONCE
namespace voronoi::kernels {
namespace {

constexpr std::int64_t kColumns = 32;

/// One token of a head.
struct DeltaToken {
  const float *q, *k, *v, *d_out;
  float stays, written;
  float *dq, *dk, *dv, *d_stays, *d_written;
};

}  // namespace
}  // namespace voronoi::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {
namespace {

/// sum = sum + factor x over n places.
HWY_INLINE void add_scaled(std::int64_t n, float factor, const float* x, float* sum) {
  const FloatTag d;
  const FloatVector by = hn::Set(d, factor);
  std::int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth)
    hn::StoreU(hn::MulAdd(by, hn::LoadU(d, x + i), hn::LoadU(d, sum + i)), d, sum + i);
  for (; i < n; ++i) sum[i] = std::fma(factor, x[i], sum[i]);
}

/// 1 / (1 + exp(-x)).
HWY_INLINE FloatVector sigmoid_of(FloatVector x) {
  const FloatTag d;
  // exp's domain ends at 104; beyond 88 the quotient is nothing.
  const FloatVector exponential = hn::Exp(d, hn::Min(hn::Neg(x), hn::Set(d, 88.0F)));
  return hn::Div(hn::Set(d, 1.0F), hn::Add(hn::Set(d, 1.0F), exponential));
}

/// out = what entered silu: the taps' sum.
void taps_row(std::int64_t channels, std::int64_t width, const float* const* rows, const float* taps, float* out) {
  const FloatTag d;
  std::int64_t c = 0;
  for (; c + kWidth <= channels; c += kWidth) {
    FloatVector sum = hn::Zero(d);
    for (std::int64_t j = 0; j < width; ++j)
      sum = hn::MulAdd(hn::LoadU(d, taps + j * channels + c), hn::LoadU(d, rows[j] + c), sum);
    hn::StoreU(sum, d, out + c);
  }
  for (; c < channels; ++c) {
    float sum = 0;
    for (std::int64_t j = 0; j < width; ++j) sum = std::fma(taps[j * channels + c], rows[j][c], sum);
    out[c] = sum;
  }
}

void silu_row(std::int64_t n, float* x) {
  map_range(n, x, [](FloatVector value) HWY_ATTR { return hn::Mul(value, sigmoid_of(value)); });
}

/// d_out times the derivative of silu at x, in d_out's place; x is overwritten.
void silu_gradient_row(std::int64_t n, float* x, float* d_out) {
  const FloatTag d;
  const FloatVector one = hn::Set(d, 1.0F);
  map_range(n, x, [&](FloatVector value) HWY_ATTR {
    const FloatVector share = sigmoid_of(value);
    return hn::Mul(share, hn::MulAdd(value, hn::Sub(one, share), one));
  });
  for (std::int64_t i = 0; i < n; ++i) d_out[i] *= x[i];
}

void sigmoid_gate_range(std::int64_t n, const float* gate, const float* x, float* out) {
  float share[kLanes];
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const std::int64_t count = std::min(kLanes, n - i);
    std::copy_n(gate + i, count, share);
    map_range(count, share, [](FloatVector value) HWY_ATTR { return sigmoid_of(value); });
    for (std::int64_t l = 0; l < count; ++l) out[i + l] = x[i + l] * share[l];
  }
}

void sigmoid_gate_gradient_range(std::int64_t n, const float* gate, const float* x, const float* d_out, float* d_gate,
                                 float* dx) {
  float share[kLanes];
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const std::int64_t count = std::min(kLanes, n - i);
    std::copy_n(gate + i, count, share);
    map_range(count, share, [](FloatVector value) HWY_ATTR { return sigmoid_of(value); });
    for (std::int64_t l = 0; l < count; ++l) {
      const float d = d_out[i + l];
      d_gate[i + l] = d * x[i + l] * (share[l] * (1.0F - share[l]));
      dx[i + l] = d * share[l];
    }
  }
}

/// One row of q and k for kColumns columns: state [key_dim, kColumns], v and out [kColumns]; v becomes what was
/// written.
HWY_INLINE void step_columns(std::int64_t key_dim, float stays, float written, float scale, const float* q,
                             const float* k, float* v, float* state, float* out) {
  const hn::CappedTag<float, static_cast<std::size_t>(kColumns)> d;
  constexpr std::int64_t kStep = static_cast<std::int64_t>(hn::MaxLanes(d)), kVectors = kColumns / kStep;
  hn::Vec<decltype(d)> sums[kVectors];
  const auto by = hn::Set(d, stays);
  for (auto& sum : sums) sum = hn::Zero(d);
  for (std::int64_t i = 0; i < key_dim; ++i) {
    const auto key = hn::Set(d, k[i]);
    float* row = state + i * kColumns;
    for (std::int64_t part = 0; part < kVectors; ++part) {
      const auto kept = hn::Mul(by, hn::Load(d, row + part * kStep));
      hn::Store(kept, d, row + part * kStep);
      sums[part] = hn::MulAdd(key, kept, sums[part]);
    }
  }
  hn::Vec<decltype(d)> change[kVectors];
  for (std::int64_t part = 0; part < kVectors; ++part) {
    change[part] = hn::Mul(hn::Set(d, written), hn::Sub(hn::Load(d, v + part * kStep), sums[part]));
    sums[part] = hn::Zero(d);
  }
  for (std::int64_t i = 0; i < key_dim; ++i) {
    const auto key = hn::Set(d, k[i]), query = hn::Set(d, q[i]);
    float* row = state + i * kColumns;
    for (std::int64_t part = 0; part < kVectors; ++part) {
      const auto now = hn::MulAdd(key, change[part], hn::Load(d, row + part * kStep));
      hn::Store(now, d, row + part * kStep);
      sums[part] = hn::MulAdd(query, now, sums[part]);
    }
  }
  for (std::int64_t part = 0; part < kVectors; ++part)
    hn::Store(hn::Mul(hn::Set(d, scale), sums[part]), d, out + part * kStep);
}

/// The rows of one sequence and head for `count` columns of v and out from `first` on.
void rule_columns(const DeltaShape& shape, std::int64_t first, std::int64_t count, const float* q, const float* k,
                  const float* v, const float* gates, const float* before, float* state, float* out, float* after) {
  HWY_ALIGN float values[kColumns] = {};
  HWY_ALIGN float results[kColumns];
  const std::int64_t ld_k = shape.n_key_heads * shape.key_dim, ld_out = shape.n_heads * shape.value_dim,
                     ld_gates = 2 * shape.n_heads;
  std::fill_n(state, shape.key_dim * kColumns, 0.0F);
  if (before != nullptr)
    for (std::int64_t i = 0; i < shape.key_dim; ++i)
      std::copy_n(before + i * shape.value_dim + first, count, state + i * kColumns);
  for (std::int64_t t = 0; t < shape.n_tokens; ++t) {
    std::copy_n(v + t * shape.ld_v + first, count, values);
    const float* gate = gates + t * ld_gates;
    step_columns(shape.key_dim, gate[0], gate[shape.n_heads], shape.scale, q + t * ld_k, k + t * ld_k, values, state,
                 results);
    std::copy_n(results, count, out + t * ld_out + first);
  }
  if (after != nullptr)
    for (std::int64_t i = 0; i < shape.key_dim; ++i)
      std::copy_n(state + i * kColumns, count, after + i * shape.value_dim + first);
}

/// `to` = the state after a token, from that before it. change [value_dim]: work.
void next_state(const DeltaShape& shape, const float* k, const float* v, float stays, float written, const float* from,
                float* change, float* to) {
  const std::int64_t n = shape.value_dim;
  std::fill_n(change, n, 0.0F);
  for (std::int64_t i = 0; i < shape.key_dim; ++i) add_scaled(n, k[i], from + i * n, change);
  for (std::int64_t j = 0; j < n; ++j) change[j] = written * (v[j] - stays * change[j]);
  for (std::int64_t i = 0; i < shape.key_dim; ++i) {
    for (std::int64_t j = 0; j < n; ++j) to[i * n + j] = stays * from[i * n + j];
    add_scaled(n, k[i], change, to + i * n);
  }
}

/// With S the state before the token, p = d S^T k, e = b (v - p) and D the derivative by the state after it, to which
/// the output adds q (scale d_out)^T: by e it is D^T k, by k D e and d S by that of p; D becomes that by S. work [3,
/// value_dim].
void back_one(const DeltaShape& shape, const DeltaToken& token, const float* state, float* d_state, float* work) {
  const std::int64_t n = shape.value_dim;
  float *predicted = work, *change = work + n, *d_change = work + 2 * n;
  std::fill_n(predicted, n, 0.0F);
  std::fill_n(d_change, n, 0.0F);
  for (std::int64_t i = 0; i < shape.key_dim; ++i) {
    add_scaled(n, token.k[i], state + i * n, predicted);
    add_scaled(n, shape.scale * token.q[i], token.d_out, d_state + i * n);
    add_scaled(n, token.k[i], d_state + i * n, d_change);
  }
  float* missing = predicted;  // what the state lacked of the value
  for (std::int64_t j = 0; j < n; ++j) {
    missing[j] = token.v[j] - token.stays * predicted[j];
    change[j] = token.written * missing[j];
  }
  *token.d_written = dot(n, d_change, missing);
  float* d_predicted = d_change;
  for (std::int64_t j = 0; j < n; ++j) {
    token.dv[j] = token.written * d_change[j];
    d_predicted[j] = -token.dv[j];
  }
  const float along = dot(n, change, token.d_out);
  float d_stays = 0;
  for (std::int64_t i = 0; i < shape.key_dim; ++i) {
    const float* row = state + i * n;
    float* d_row = d_state + i * n;
    token.dq[i] = shape.scale * (token.stays * dot(n, row, token.d_out) + token.k[i] * along);
    token.dk[i] = dot(n, d_row, change) + token.stays * dot(n, row, d_predicted);
    add_scaled(n, token.k[i], d_predicted, d_row);
    d_stays += dot(n, d_row, row);
    for (std::int64_t j = 0; j < n; ++j) d_row[j] *= token.stays;
  }
  *token.d_stays = d_stays;
}

}  // namespace
}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {
namespace {

HWY_EXPORT(taps_row);
HWY_EXPORT(silu_row);
HWY_EXPORT(silu_gradient_row);
HWY_EXPORT(sigmoid_gate_range);
HWY_EXPORT(sigmoid_gate_gradient_range);
HWY_EXPORT(rule_columns);
HWY_EXPORT(next_state);
HWY_EXPORT(back_one);

/// [channels, width] as [width, channels].
std::vector<float> taps_of(const ConvShape& shape, const float* weight) {
  std::vector<float> taps(static_cast<std::size_t>(shape.channels * shape.width));
  for (std::int64_t c = 0; c < shape.channels; ++c)
    for (std::int64_t j = 0; j < shape.width; ++j)
      taps[static_cast<std::size_t>(j * shape.channels + c)] = weight[c * shape.width + j];
  return taps;
}

/// body(row, what the taps of it make, [channels], the thread's own) for every row.
template <class Body>
void for_each_taps(const Exec& exec, const ConvShape& shape, const float* x, const float* past, const float* weight,
                   const Body& body) {
  const std::vector<float> taps = taps_of(shape, weight), zeros(static_cast<std::size_t>(shape.channels));
  const std::int64_t before = shape.width - 1;
  for_row_chunks(exec, shape.n_sequences * shape.n_tokens, shape.channels, [&](std::int64_t first, std::int64_t rows) {
    std::vector<const float*> from(static_cast<std::size_t>(shape.width));
    Scratch<float> made(shape.channels);
    for (std::int64_t r = first; r < first + rows; ++r) {
      const std::int64_t sequence = r / shape.n_tokens, token = r % shape.n_tokens;
      for (std::int64_t j = 0; j < shape.width; ++j) {
        const std::int64_t back = before - j;
        const float* row = zeros.data();
        if (token >= back)
          row = x + (r - back) * shape.channels;
        else if (past != nullptr)
          row = past + (sequence * before + token + j) * shape.channels;
        from[static_cast<std::size_t>(j)] = row;
      }
      HWY_DYNAMIC_DISPATCH(taps_row)(shape.channels, shape.width, from.data(), taps.data(), made.data());
      body(r, made.data());
    }
  });
}

void conv(const Exec& exec, const ConvShape& shape, const float* x, const float* past, const float* weight,
          float* out) {
  for_each_taps(exec, shape, x, past, weight, [&](std::int64_t row, float* made) {
    HWY_DYNAMIC_DISPATCH(silu_row)(shape.channels, made);
    std::copy_n(made, shape.channels, out + row * shape.channels);
  });
}

void conv_gradient(const Exec& exec, const ConvShape& shape, const float* x, const float* weight, float* d_out,
                   float* dx, float* d_weight) {
  const std::int64_t channels = shape.channels, width = shape.width, n_rows = shape.n_sequences * shape.n_tokens;
  for_each_taps(exec, shape, x, nullptr, weight, [&](std::int64_t row, float* made) {
    HWY_DYNAMIC_DISPATCH(silu_gradient_row)(channels, made, d_out + row * channels);
  });
  const std::vector<float> taps = taps_of(shape, weight);
  for_row_chunks(exec, n_rows, channels, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t r = first; r < first + rows; ++r) {
      float* target = dx + r * channels;
      std::fill_n(target, channels, 0.0F);
      for (std::int64_t ahead = 0; ahead < width && r % shape.n_tokens + ahead < shape.n_tokens; ++ahead) {
        const float *tap = taps.data() + (width - 1 - ahead) * channels, *from = d_out + (r + ahead) * channels;
        for (std::int64_t c = 0; c < channels; ++c) target[c] += tap[c] * from[c];
      }
    }
  });
  if (d_weight == nullptr) return;
  // A stripe of channels is one thread's; rows are added up in parts, the parts in their order.
  constexpr std::int64_t kStripe = 64, kPartRows = 64;
  exec.pool->parallel_for(core::ceil_div(channels, kStripe), [&](std::int64_t stripe) {
    const std::int64_t first = stripe * kStripe, count = std::min(kStripe, channels - first);
    std::vector<float> part(static_cast<std::size_t>(width * count));
    for (std::int64_t begin = 0; begin < n_rows; begin += kPartRows) {
      std::fill(part.begin(), part.end(), 0.0F);
      for (std::int64_t r = begin; r < std::min(n_rows, begin + kPartRows); ++r)
        for (std::int64_t back = 0; back < width && back <= r % shape.n_tokens; ++back) {
          const float *from = x + (r - back) * channels + first, *slope = d_out + r * channels + first;
          float* sum = part.data() + (width - 1 - back) * count;
          for (std::int64_t c = 0; c < count; ++c) sum[c] += slope[c] * from[c];
        }
      for (std::int64_t c = 0; c < count; ++c)
        for (std::int64_t j = 0; j < width; ++j)
          d_weight[(first + c) * width + j] += part[static_cast<std::size_t>(j * count + c)];
    }
  });
}

/// What a row says of a head of values.
struct GateInputs {
  std::int64_t written, stays;  ///< places in the row
};
GateInputs inputs_of(std::int64_t n_groups, std::int64_t n_heads, std::int64_t head) {
  const std::int64_t in_group = n_heads / n_groups, group = head / in_group, first = group * 2 * in_group;
  return {first + head % in_group, first + in_group + head % in_group};
}

float softplus(float x) { return x > 20.0F ? x : std::log1p(std::exp(x)); }
float logistic(float x) { return 1.0F / (1.0F + std::exp(-x)); }

void gates(const Exec& exec, std::int64_t n_rows, std::int64_t n_groups, std::int64_t n_heads, const float* x,
           const float* log_decay, const float* bias, float* out) {
  for_row_chunks(exec, n_rows, 16 * n_heads, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t r = first; r < first + rows; ++r)
      for (std::int64_t h = 0; h < n_heads; ++h) {
        const float* row = x + r * 2 * n_heads;
        const GateInputs at = inputs_of(n_groups, n_heads, h);
        out[r * 2 * n_heads + h] = std::exp(-std::exp(log_decay[h]) * softplus(row[at.stays] + bias[h]));
        out[r * 2 * n_heads + n_heads + h] = logistic(row[at.written]);
      }
  });
}

/// With g the logarithm of what stays: dg = gate d_gate; g is proportional to exp(log_decay), and its slope in a is
/// -exp(log_decay) sigmoid(a + bias).
void gates_gradient(const Exec& exec, std::int64_t n_rows, std::int64_t n_groups, std::int64_t n_heads, const float* x,
                    const float* log_decay, const float* bias, const float* gates, const float* d_gates, float* dx,
                    float* terms) {
  for_row_chunks(exec, n_rows, 16 * n_heads, [&](std::int64_t first, std::int64_t rows) {
    for (std::int64_t r = first; r < first + rows; ++r)
      for (std::int64_t h = 0; h < n_heads; ++h) {
        const std::int64_t row = r * 2 * n_heads;
        const GateInputs at = inputs_of(n_groups, n_heads, h);
        const float a = x[row + at.stays] + bias[h], rate = std::exp(log_decay[h]);
        const float d_log = gates[row + h] * d_gates[row + h], written = gates[row + n_heads + h];
        const float by_a = -d_log * rate * logistic(a);
        dx[row + at.stays] = by_a;
        dx[row + at.written] = d_gates[row + n_heads + h] * written * (1.0F - written);
        terms[row + h] = -d_log * rate * softplus(a);
        terms[row + n_heads + h] = by_a;
      }
  });
}

void rule(const Exec& exec, const DeltaShape& shape, const float* q, const float* k, const float* v, const float* gates,
          const float* before, float* out, float* after) {
  const std::int64_t n_tiles = core::ceil_div(shape.value_dim, kColumns), n = shape.key_dim * shape.value_dim;
  exec.pool->parallel_for(shape.n_sequences * shape.n_heads * n_tiles, [&](std::int64_t task) {
    const std::int64_t tile = task % n_tiles, head = task / n_tiles % shape.n_heads,
                       sequence = task / n_tiles / shape.n_heads, row = sequence * shape.rows_apart;
    const std::int64_t in_keys =
        row * shape.n_key_heads * shape.key_dim + head / (shape.n_heads / shape.n_key_heads) * shape.key_dim;
    const std::int64_t state = (sequence * shape.n_heads + head) * n, first = tile * kColumns;
    Scratch<float> columns(shape.key_dim * kColumns);
    HWY_DYNAMIC_DISPATCH(rule_columns)
    (shape, first, std::min(kColumns, shape.value_dim - first), q + in_keys, k + in_keys,
     v + row * shape.ld_v + head * shape.value_dim, gates + row * 2 * shape.n_heads + head,
     before == nullptr ? nullptr : before + state, columns.data(), out + (row * shape.n_heads + head) * shape.value_dim,
     after == nullptr ? nullptr : after + state);
  });
}

/// All tokens of one sequence and head.
void back_head(const DeltaShape& shape, std::int64_t sequence, std::int64_t head, const float* q, const float* k,
               const float* v, const float* gates, const float* d_out, float* dq, float* dk, float* dv,
               float* d_gates) {
  const std::int64_t n = shape.key_dim * shape.value_dim, n_tokens = shape.n_tokens, n_heads = shape.n_heads;
  const std::int64_t key_head = head / (n_heads / shape.n_key_heads);
  const auto token_of = [&](std::int64_t t) {
    const std::int64_t row = sequence * n_tokens + t, in_keys = (row * shape.n_key_heads + key_head) * shape.key_dim,
                       in_heads = row * n_heads + head, in_gates = row * 2 * n_heads + head,
                       in_v = row * shape.ld_v + head * shape.value_dim;
    return DeltaToken{q + in_keys,
                      k + in_keys,
                      v + in_v,
                      d_out + in_heads * shape.value_dim,
                      gates[in_gates],
                      gates[in_gates + n_heads],
                      dq + in_heads * shape.key_dim,
                      dk + in_heads * shape.key_dim,
                      dv + in_v,
                      d_gates + in_gates,
                      d_gates + in_gates + n_heads};
  };
  const std::int64_t n_chunks = core::ceil_div(n_tokens, kDeltaChunk);
  // The state before each chunk, then those before the tokens of one.
  Scratch<float> chunks(n_chunks * n), states((kDeltaChunk + 1) * n), d_state(n), work(3 * shape.value_dim);
  const auto next = [&](std::int64_t t, const float* from, float* to) {
    const DeltaToken token = token_of(t);
    HWY_DYNAMIC_DISPATCH(next_state)(shape, token.k, token.v, token.stays, token.written, from, work.data(), to);
  };
  std::fill_n(d_state.data(), n, 0.0F);
  std::fill_n(chunks.data(), n, 0.0F);
  for (std::int64_t chunk = 0; chunk + 1 < n_chunks; ++chunk) {
    const float* from = chunks.data() + chunk * n;
    for (std::int64_t i = 0; i < kDeltaChunk; ++i) {
      float* to = i + 1 == kDeltaChunk ? chunks.data() + (chunk + 1) * n : states.data() + i % 2 * n;
      next(chunk * kDeltaChunk + i, from, to);
      from = to;
    }
  }
  for (std::int64_t chunk = n_chunks - 1; chunk >= 0; --chunk) {
    const std::int64_t first = chunk * kDeltaChunk, count = std::min(kDeltaChunk, n_tokens - first);
    std::copy_n(chunks.data() + chunk * n, n, states.data());
    for (std::int64_t i = 0; i + 1 < count; ++i) next(first + i, states.data() + i * n, states.data() + (i + 1) * n);
    for (std::int64_t i = count - 1; i >= 0; --i) HWY_DYNAMIC_DISPATCH(back_one)
    (shape, token_of(first + i), states.data() + i * n, d_state.data(), work.data());
  }
}

void rule_gradient(const Exec& exec, const DeltaShape& shape, const float* q, const float* k, const float* v,
                   const float* gates, const float* d_out, float* dq, float* dk, float* dv, float* d_gates) {
  exec.pool->parallel_for(shape.n_sequences * shape.n_heads, [&](std::int64_t task) {
    back_head(shape, task / shape.n_heads, task % shape.n_heads, q, k, v, gates, d_out, dq, dk, dv, d_gates);
  });
}

void sigmoid_gate(const Exec& exec, std::int64_t n, const float* gate, const float* x, float* out) {
  for_row_chunks(exec, n, 1, [&](std::int64_t i, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(sigmoid_gate_range)(count, gate + i, x + i, out + i);
  });
}

void sigmoid_gate_gradient(const Exec& exec, std::int64_t n, const float* gate, const float* x, const float* d_out,
                           float* d_gate, float* dx) {
  for_row_chunks(exec, n, 1, [&](std::int64_t i, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(sigmoid_gate_gradient_range)(count, gate + i, x + i, d_out + i, d_gate + i, dx + i);
  });
}

}  // namespace

DeltaRuleKernels cpu_delta_rule_kernels() {
  return {.conv = conv,
          .conv_gradient = conv_gradient,
          .gates = gates,
          .gates_gradient = gates_gradient,
          .rule = rule,
          .rule_gradient = rule_gradient,
          .sigmoid_gate = sigmoid_gate,
          .sigmoid_gate_gradient = sigmoid_gate_gradient};
}

}  // namespace voronoi::kernels
#endif
