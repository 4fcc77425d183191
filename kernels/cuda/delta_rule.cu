// The gated delta rule and the operations around it. The rule walks through the tokens one by one: a block has kColumns
// columns of a head's state in shared memory, since columns never meet. Bound by the latency of its two sums a token.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/families.h"
#include "kernels/cuda/nn.cuh"
#include "kernels/cuda/nn_gradient.cuh"
#include "kernels/cuda/rows.cuh"

namespace voronoi::kernels {
namespace gpu {
namespace {

constexpr int kColumns = kWarpSize;
constexpr int kRuleWarps = 4;  // each has every fourth row of the state
constexpr int kRuleThreads = kRuleWarps * kWarpSize;
constexpr int kBackThreads = 256;
constexpr int kBackWarps = kBackThreads / kWarpSize;
constexpr std::int64_t kPartRows = 64;

/// What enters silu at (row, channel).
struct Taps {
  ConvShape shape;
  const float *x, *past, *weight;
  __device__ float operator()(std::int64_t row, std::int64_t channel) const {
    const std::int64_t sequence = row / shape.n_tokens, token = row % shape.n_tokens, before = shape.width - 1;
    float sum = 0;
    for (std::int64_t j = 0; j < shape.width; ++j) {
      const std::int64_t back = before - j;
      float value = 0;
      if (token >= back)
        value = x[(row - back) * shape.channels + channel];
      else if (past != nullptr)
        value = past[(sequence * before + token + j) * shape.channels + channel];
      sum = fmaf(weight[channel * shape.width + j], value, sum);
    }
    return sum;
  }
};

struct Conv {
  Taps taps;
  float* out;
  __device__ void operator()(std::int64_t row, std::int64_t channel) const {
    const float value = taps(row, channel);
    out[row * taps.shape.channels + channel] = value * sigmoid_of(value);
  }
};

struct BeforeSilu {
  Taps taps;
  float* d_out;
  __device__ void operator()(std::int64_t row, std::int64_t channel) const {
    const float value = taps(row, channel), share = sigmoid_of(value);
    d_out[row * taps.shape.channels + channel] *= share * fmaf(value, 1.0F - share, 1.0F);
  }
};

struct ConvBack {
  ConvShape shape;
  const float *weight, *d_out;
  float* dx;
  __device__ void operator()(std::int64_t row, std::int64_t channel) const {
    float sum = 0;
    for (std::int64_t ahead = 0; ahead < shape.width && row % shape.n_tokens + ahead < shape.n_tokens; ++ahead)
      sum += weight[channel * shape.width + shape.width - 1 - ahead] * d_out[(row + ahead) * shape.channels + channel];
    dx[row * shape.channels + channel] = sum;
  }
};

/// A row is a part of kPartRows rows of tokens, a column a weight.
struct ConvWeightPart {
  ConvShape shape;
  std::int64_t n_rows;
  const float *x, *d_out;
  float* parts;
  __device__ void operator()(std::int64_t part, std::int64_t column) const {
    const std::int64_t channel = column / shape.width, back = shape.width - 1 - column % shape.width;
    const std::int64_t begin = part * kPartRows, end = begin + kPartRows < n_rows ? begin + kPartRows : n_rows;
    float sum = 0;
    for (std::int64_t row = begin; row < end; ++row)
      if (row % shape.n_tokens >= back)
        sum += d_out[row * shape.channels + channel] * x[(row - back) * shape.channels + channel];
    parts[part * shape.channels * shape.width + column] = sum;
  }
};

void conv(const Exec& exec, const ConvShape& shape, const float* x, const float* past, const float* weight,
          float* out) {
  for_rows(exec, shape.n_sequences * shape.n_tokens, shape.channels, Conv{{shape, x, past, weight}, out});
}

void conv_gradient(const Exec& exec, const ConvShape& shape, const float* x, const float* weight, float* d_out,
                   float* dx, float* d_weight) {
  const std::int64_t n_rows = shape.n_sequences * shape.n_tokens, n_weights = shape.channels * shape.width;
  for_rows(exec, n_rows, shape.channels, BeforeSilu{{shape, x, nullptr, weight}, d_out});
  for_rows(exec, n_rows, shape.channels, ConvBack{shape, weight, d_out, dx});
  if (d_weight == nullptr || n_rows <= 0) return;
  const std::int64_t n_parts = core::ceil_div(n_rows, kPartRows);
  const Scratch<float> parts(native(exec), n_parts * n_weights);
  for_rows(exec, n_parts, n_weights, ConvWeightPart{shape, n_rows, x, d_out, parts.data()});
  column_sums(exec, n_parts, n_weights, parts.data(), n_weights, d_weight);
}

__device__ __forceinline__ float softplus(float x) { return x > 20.0F ? x : log1pf(expf(x)); }

/// Places in a row of what it says of a head of values.
struct GateInputs {
  std::int64_t written, stays;
};
__device__ __forceinline__ GateInputs inputs_of(std::int64_t n_groups, std::int64_t n_heads, std::int64_t head) {
  const std::int64_t in_group = n_heads / n_groups, first = head / in_group * 2 * in_group;
  return {first + head % in_group, first + in_group + head % in_group};
}

struct Gates {
  std::int64_t n_groups, n_heads;
  const float *x, *log_decay, *bias;
  float* gates;
  __device__ void operator()(std::int64_t row, std::int64_t head) const {
    const float* from = x + row * 2 * n_heads;
    float* to = gates + row * 2 * n_heads;
    const GateInputs at = inputs_of(n_groups, n_heads, head);
    to[head] = expf(-expf(log_decay[head]) * softplus(from[at.stays] + bias[head]));
    to[n_heads + head] = sigmoid_of(from[at.written]);
  }
};

struct GatesBack {
  std::int64_t n_groups, n_heads;
  const float *x, *log_decay, *bias, *gates, *d_gates;
  float *dx, *terms;
  __device__ void operator()(std::int64_t row, std::int64_t head) const {
    const std::int64_t first = row * 2 * n_heads, stays = first + head, written = stays + n_heads;
    const GateInputs at = inputs_of(n_groups, n_heads, head);
    const float a = x[first + at.stays] + bias[head], rate = expf(log_decay[head]);
    const float d_log = gates[stays] * d_gates[stays], share = gates[written];
    const float by_a = -d_log * rate * sigmoid_of(a);
    dx[first + at.stays] = by_a;
    dx[first + at.written] = d_gates[written] * share * (1.0F - share);
    terms[stays] = -d_log * rate * softplus(a);
    terms[written] = by_a;
  }
};

void gates(const Exec& exec, std::int64_t n_rows, std::int64_t n_groups, std::int64_t n_heads, const float* x,
           const float* log_decay, const float* bias, float* gates) {
  for_rows(exec, n_rows, n_heads, Gates{n_groups, n_heads, x, log_decay, bias, gates});
}

void gates_gradient(const Exec& exec, std::int64_t n_rows, std::int64_t n_groups, std::int64_t n_heads, const float* x,
                    const float* log_decay, const float* bias, const float* gates, const float* d_gates, float* dx,
                    float* terms) {
  for_rows(exec, n_rows, n_heads, GatesBack{n_groups, n_heads, x, log_decay, bias, gates, d_gates, dx, terms});
}

/// What the threads of a block of the rule share besides its columns of the state [key_dim, kColumns], which q and k
/// [key_dim] of a token follow.
struct RuleSums {
  float predicted[kRuleWarps][kColumns], out[kRuleWarps][kColumns];
};

__device__ __forceinline__ float add_warps(const float (&parts)[kRuleWarps][kColumns], int lane) {
  float sum = parts[0][lane];
  for (int w = 1; w < kRuleWarps; ++w) sum += parts[w][lane];
  return sum;
}

__global__ void __launch_bounds__(kRuleThreads)
    rule_kernel(DeltaShape shape, const float* q, const float* k, const float* v, const float* gates,
                const float* before, float* out, float* after) {
  __shared__ RuleSums sums;
  const int key_dim = static_cast<int>(shape.key_dim), lane = lane_id(), warp = warp_id();
  float* state = dynamic_shared<float>();
  float *queries = state + key_dim * kColumns, *keys = queries + key_dim;
  const std::int64_t tiles = (shape.value_dim + kColumns - 1) / kColumns, tile = blockIdx.x % tiles,
                     task = blockIdx.x / tiles, head = task % shape.n_heads, sequence = task / shape.n_heads;
  const std::int64_t column = tile * kColumns + lane, key_head = head / (shape.n_heads / shape.n_key_heads);
  const std::int64_t in_state = task * shape.key_dim * shape.value_dim + column;
  const bool is_there = column < shape.value_dim;
  for (int i = warp; i < key_dim; i += kRuleWarps)
    state[i * kColumns + lane] = before != nullptr && is_there ? before[in_state + i * shape.value_dim] : 0.0F;
  for (std::int64_t t = 0; t < shape.n_tokens; ++t) {
    const std::int64_t row = sequence * shape.rows_apart + t;
    const std::int64_t in_keys = (row * shape.n_key_heads + key_head) * shape.key_dim;
    for (int i = static_cast<int>(threadIdx.x); i < key_dim; i += kRuleThreads) {
      queries[i] = q[in_keys + i];
      keys[i] = k[in_keys + i];
    }
    const float stays = gates[row * 2 * shape.n_heads + head], written = gates[(row * 2 + 1) * shape.n_heads + head];
    const float value = is_there ? v[row * shape.ld_v + head * shape.value_dim + column] : 0.0F;
    sync_threads();
    float sum = 0;
    for (int i = warp; i < key_dim; i += kRuleWarps) {
      const float kept = stays * state[i * kColumns + lane];
      state[i * kColumns + lane] = kept;
      sum = fmaf(keys[i], kept, sum);
    }
    sums.predicted[warp][lane] = sum;
    sync_threads();
    const float change = written * (value - add_warps(sums.predicted, lane));
    sum = 0;
    for (int i = warp; i < key_dim; i += kRuleWarps) {
      const float now = fmaf(keys[i], change, state[i * kColumns + lane]);
      state[i * kColumns + lane] = now;
      sum = fmaf(queries[i], now, sum);
    }
    sums.out[warp][lane] = sum;
    sync_threads();
    if (warp == 0 && is_there)
      out[(row * shape.n_heads + head) * shape.value_dim + column] = shape.scale * add_warps(sums.out, lane);
  }
  if (after == nullptr || !is_there) return;
  for (int i = warp; i < key_dim; i += kRuleWarps) after[in_state + i * shape.value_dim] = state[i * kColumns + lane];
}

void rule(const Exec& exec, const DeltaShape& shape, const float* q, const float* k, const float* v, const float* gates,
          const float* before, float* out, float* after) {
  const std::int64_t tiles = core::ceil_div(shape.value_dim, kColumns);
  launch(native(exec), rule_kernel, grid_of(shape.n_sequences * shape.n_heads * tiles), dim3(kRuleThreads),
         shape.key_dim * (kColumns + 2) * std::int64_t{sizeof(float)}, shape, q, k, v, gates, before, out, after);
}

/// `to` = the state after a token, from that before it, each thread its columns.
__device__ __forceinline__ void next_state(const DeltaShape& shape, const float* k, const float* v, float stays,
                                           float written, const float* from, float* to) {
  for (std::int64_t j = threadIdx.x; j < shape.value_dim; j += kBackThreads) {
    float predicted = 0;
    for (std::int64_t i = 0; i < shape.key_dim; ++i) predicted = fmaf(k[i], from[i * shape.value_dim + j], predicted);
    const float change = written * (v[j] - stays * predicted);
    for (std::int64_t i = 0; i < shape.key_dim; ++i) {
      const std::int64_t at = i * shape.value_dim + j;
      to[at] = fmaf(k[i], change, stays * from[at]);
    }
  }
}

/// A block a sequence and head. `states`: of each block what the CPU twin keeps, n_chunks + kDeltaChunk + 1 states, the
/// last of them the derivative's. See kernels/cpu/delta_rule.cpp for the formulas.
__global__ void __launch_bounds__(kBackThreads)
    rule_gradient_kernel(DeltaShape shape, const float* q, const float* k, const float* v, const float* gates,
                         const float* d_out, float* dq, float* dk, float* dv, float* d_gates, float* states) {
  __shared__ float partial[kWarpSize];
  const std::int64_t n_columns = shape.value_dim, n = shape.key_dim * n_columns, n_tokens = shape.n_tokens;
  const std::int64_t head = blockIdx.x % shape.n_heads, sequence = blockIdx.x / shape.n_heads,
                     key_head = head / (shape.n_heads / shape.n_key_heads);
  const std::int64_t n_chunks = (n_tokens + kDeltaChunk - 1) / kDeltaChunk;
  float* chunks = states + blockIdx.x * (n_chunks + kDeltaChunk + 1) * n;
  float *own = chunks + n_chunks * n, *d_state = own + kDeltaChunk * n;
  float* change = dynamic_shared<float>();                                      // [value_dim]
  float *d_predicted = change + n_columns, *d_stays = d_predicted + n_columns;  // the latter [key_dim]
  const auto row_of = [&](std::int64_t t) { return sequence * n_tokens + t; };
  const auto next = [&](std::int64_t t, const float* from, float* to) {
    const std::int64_t row = row_of(t);
    next_state(shape, k + (row * shape.n_key_heads + key_head) * shape.key_dim, v + row * shape.ld_v + head * n_columns,
               gates[row * 2 * shape.n_heads + head], gates[(row * 2 + 1) * shape.n_heads + head], from, to);
  };
  // Threads keep to their columns until a token's rows are summed.
  for (std::int64_t j = threadIdx.x; j < n_columns; j += kBackThreads)
    for (std::int64_t i = 0; i < shape.key_dim; ++i) {
      chunks[i * n_columns + j] = 0;
      d_state[i * n_columns + j] = 0;
    }
  for (std::int64_t chunk = 0; chunk + 1 < n_chunks; ++chunk) {
    const float* from = chunks + chunk * n;
    for (std::int64_t i = 0; i < kDeltaChunk; ++i) {
      float* to = i + 1 == kDeltaChunk ? chunks + (chunk + 1) * n : own + i % 2 * n;
      next(chunk * kDeltaChunk + i, from, to);
      from = to;
    }
  }
  for (std::int64_t chunk = n_chunks - 1; chunk >= 0; --chunk) {
    const std::int64_t first = chunk * kDeltaChunk;
    const std::int64_t count = n_tokens - first < kDeltaChunk ? n_tokens - first : kDeltaChunk;
    sync_threads();  // rows of the chunk behind are read by other threads
    for (std::int64_t i = 0; i + 1 < count; ++i)
      next(first + i, i == 0 ? chunks + chunk * n : own + i * n, own + (i + 1) * n);
    for (std::int64_t i = count - 1; i >= 0; --i) {
      const float* state = i == 0 ? chunks + chunk * n : own + i * n;
      const std::int64_t row = row_of(first + i), in_head = row * shape.n_heads + head,
                         in_keys = (row * shape.n_key_heads + key_head) * shape.key_dim,
                         in_v = row * shape.ld_v + head * n_columns;
      const std::int64_t in_gates = row * 2 * shape.n_heads + head;
      const float stays = gates[in_gates], written = gates[in_gates + shape.n_heads];
      const float* slope = d_out + in_head * n_columns;
      sync_threads();  // d_state is whole
      float by_written = 0, along = 0;
      for (std::int64_t j = threadIdx.x; j < n_columns; j += kBackThreads) {
        float predicted = 0, d_change = 0;
        for (std::int64_t c = 0; c < shape.key_dim; ++c) {
          const std::int64_t at = c * n_columns + j;
          const float d_now = fmaf(shape.scale * q[in_keys + c], slope[j], d_state[at]);
          d_state[at] = d_now;
          predicted = fmaf(k[in_keys + c], state[at], predicted);
          d_change = fmaf(k[in_keys + c], d_now, d_change);
        }
        const float missing = v[in_v + j] - stays * predicted, by_value = written * d_change;
        change[j] = written * missing;
        d_predicted[j] = -by_value;
        dv[in_v + j] = by_value;
        by_written = fmaf(d_change, missing, by_written);
        along = fmaf(change[j], slope[j], along);
      }
      by_written = block_sum(by_written, partial);
      along = block_sum(along, partial);  // and all threads have written
      for (std::int64_t c = warp_id(); c < shape.key_dim; c += kBackWarps) {
        const float* at = state + c * n_columns;
        float* d_at = d_state + c * n_columns;
        const float key = k[in_keys + c];
        float by_query = 0, by_key = 0, by_stays = 0;
        for (std::int64_t j = lane_id(); j < n_columns; j += kWarpSize) {
          by_query = fmaf(at[j], slope[j], by_query);
          by_key += d_at[j] * change[j] + stays * (at[j] * d_predicted[j]);
          const float kept = fmaf(key, d_predicted[j], d_at[j]);
          by_stays = fmaf(kept, at[j], by_stays);
          d_at[j] = stays * kept;
        }
        by_query = warp_sum(by_query);
        by_key = warp_sum(by_key);
        by_stays = warp_sum(by_stays);
        if (lane_id() == 0) {
          dq[in_head * shape.key_dim + c] = shape.scale * (stays * by_query + key * along);
          dk[in_head * shape.key_dim + c] = by_key;
          d_stays[c] = by_stays;
        }
      }
      sync_threads();
      if (threadIdx.x == 0) {
        float sum = 0;
        for (std::int64_t c = 0; c < shape.key_dim; ++c) sum += d_stays[c];
        d_gates[in_gates] = sum;
        d_gates[in_gates + shape.n_heads] = by_written;
      }
    }
  }
}

void rule_gradient(const Exec& exec, const DeltaShape& shape, const float* q, const float* k, const float* v,
                   const float* gates, const float* d_out, float* dq, float* dk, float* dv, float* d_gates) {
  Native& gpu = native(exec);
  const std::int64_t n_blocks = shape.n_sequences * shape.n_heads,
                     n_states = core::ceil_div(shape.n_tokens, kDeltaChunk) + kDeltaChunk + 1;
  const Scratch<float> states(gpu, n_blocks * n_states * shape.key_dim * shape.value_dim);
  launch(gpu, rule_gradient_kernel, grid_of(n_blocks), dim3(kBackThreads),
         (2 * shape.value_dim + shape.key_dim) * std::int64_t{sizeof(float)}, shape, q, k, v, gates, d_out, dq, dk, dv,
         d_gates, states.data());
}

struct SigmoidGate {
  const float *gate, *x;
  float* out;
  __device__ void operator()(std::int64_t, std::int64_t i) const { out[i] = x[i] * sigmoid_of(gate[i]); }
};

struct SigmoidGateBack {
  const float *gate, *x, *d_out;
  float *d_gate, *dx;
  __device__ void operator()(std::int64_t, std::int64_t i) const {
    const float share = sigmoid_of(gate[i]), slope = d_out[i];
    d_gate[i] = slope * x[i] * (share * (1.0F - share));
    dx[i] = slope * share;
  }
};

void sigmoid_gate(const Exec& exec, std::int64_t n, const float* gate, const float* x, float* out) {
  for_rows(exec, 1, n, SigmoidGate{gate, x, out});
}

void sigmoid_gate_gradient(const Exec& exec, std::int64_t n, const float* gate, const float* x, const float* d_out,
                           float* d_gate, float* dx) {
  for_rows(exec, 1, n, SigmoidGateBack{gate, x, d_out, d_gate, dx});
}

}  // namespace
}  // namespace gpu

DeltaRuleKernels cuda_delta_rule_kernels() {
  return {.conv = gpu::conv,
          .conv_gradient = gpu::conv_gradient,
          .gates = gpu::gates,
          .gates_gradient = gpu::gates_gradient,
          .rule = gpu::rule,
          .rule_gradient = gpu::rule_gradient,
          .sigmoid_gate = gpu::sigmoid_gate,
          .sigmoid_gate_gradient = gpu::sigmoid_gate_gradient};
}

}  // namespace voronoi::kernels
