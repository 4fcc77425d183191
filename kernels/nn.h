// Operations of a decoder block over raw pointers, fp32, tokens as rows. Results do not depend on the thread count.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/exec.h"

namespace voronoi::kernels {

/// Causal attention of independent sequences of equal length, grouped queries. With n_past > 0 the queries are a
/// sequence's last n_tokens: k and v have n_past + n_tokens rows a sequence, query i stands at position n_past + i.
struct AttentionShape {
  std::int64_t n_sequences, n_tokens;  ///< tokens a sequence; rows are sequence-major
  std::int64_t n_heads, n_kv_heads, head_dim;
  std::int64_t window;               ///< query i sees keys i-window+1 .. i; 0 = all before
  float scale;                       ///< factor on q.k
  std::int64_t ld_q, ld_kv, ld_out;  ///< elements between token rows
  float softcap = 0;                 ///< c > 0: a score s = scale * q.k counts as c tanh(s / c); 0: as it is
  /// f32: products in fp32. f16, bf16: q, k and v are rounded to it, products are exact and summed in fp32; tensor
  /// cores, and the CPU in bf16, round the softmax's numerators to it as well.
  core::DType compute = core::DType::f32;
  std::int64_t n_past = 0;
  /// [n_heads], device memory: one more score of each head's softmax, with no value behind it (OpenAI 2025, gpt-oss);
  /// null: none.
  const float* sinks = nullptr;
};

/// What a rotary embedding turns: of each row's heads, head_dim apart, the first n_turned values (even), in pairs
/// (i, i + n_turned / 2) as Hugging Face's classes have them, or `interleaved` in pairs (2 i, 2 i + 1). Row r stands at
/// position r % n_tokens.
struct RopeShape {
  std::int64_t n_rows, n_tokens, n_heads, head_dim, n_turned;
  bool interleaved = false;
};

/// The most groups of experts that a router chooses among.
inline constexpr std::int64_t kMaxRouteGroups = 64;

/// How a router chooses top_k of n_experts, 1 <= top_k <= n_experts, and weighs them.
struct RouteShape {
  std::int64_t n_rows, n_experts, top_k;
  bool renormalise;      ///< the chosen weights are divided by their sum
  bool sigmoid = false;  ///< weights are the logits' sigmoids; else their softmax over all experts
  /// With sigmoids: neighbouring experts form n_groups of two and more; of those the top_groups stay whose two best
  /// experts add up to the most, and have top_k experts at least (DeepSeek-AI 2024, V3, section 2.1.2).
  std::int64_t n_groups = 1, top_groups = 1;
  float factor = 1;  ///< on the weights; with sigmoids
};

/// `width` values of each of n_heads parts of a row, at x + r ldx + h step_x and out + r ld_out + h step_out.
struct HeadParts {
  std::int64_t n_rows, n_heads, width;
  std::int64_t ldx, step_x;  ///< step_x 0: the same part for all heads
  std::int64_t ld_out, step_out;
};

struct NnKernels {
  /// Rows of `dim`: out = x / sqrt(mean(x^2) + eps) * weight. In place allowed.
  void (*rms_norm)(const Exec&, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                   const float* weight, float eps, float* out, std::int64_t ld_out);
  /// Rotary embedding, in place: pair i is turned by the angle whose cosine and sine are in cos_sin[position,
  /// 0..n_turned/2) and [.., n_turned/2..n_turned).
  void (*rope)(const Exec&, const RopeShape&, const float* cos_sin, float* x, std::int64_t ldx);
  /// out = softmax(scale * q k^T, causal) v, never materialising n_tokens x n_tokens. On the CPU a query's result does
  /// not depend, to the bit, on how many of the sequence's tokens are queries.
  void (*attention)(const Exec&, const AttentionShape&, const float* q, const float* k, const float* v, float* out);
  /// out = silu(gate) * up, elementwise over n values; out may be gate.
  void (*swiglu)(const Exec&, std::int64_t n, const float* gate, const float* up, float* out);
  /// x += y over n values.
  void (*add)(const Exec&, std::int64_t n, const float* y, float* x);
  /// Adds bias [dim] to each of n_rows rows.
  void (*add_bias)(const Exec&, std::int64_t n_rows, std::int64_t dim, const float* bias, float* x, std::int64_t ldx);
  /// nll[i] = log(sum_j exp(logits[i, j])) - logits[i, target[i]], in fp64, for rows of `vocab` logits.
  void (*nll)(const Exec&, std::int64_t n_rows, std::int64_t vocab, const float* logits, std::int64_t ld,
              const std::int32_t* target, double* nll);
  /// out = gelu(gate) * up, elementwise over n values, gelu(x) = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)));
  /// out may be gate.
  void (*geglu)(const Exec&, std::int64_t n, const float* gate, const float* up, float* out);
  /// x = factor * x over n values.
  void (*scale)(const Exec&, std::int64_t n, float factor, float* x);
  /// x = cap tanh(x / cap) over n values, cap > 0.
  void (*soft_cap)(const Exec&, std::int64_t n, float cap, float* x);
  /// x = 1 / (1 + exp(-x)) over n values.
  void (*sigmoid)(const Exec&, std::int64_t n, float* x);
  /// Router of a mixture of experts. For each row of logits [n_rows, n_experts] the top_k largest, largest first and
  /// the lower expert first among equals: expert [n_rows, top_k] their numbers, weight [n_rows, top_k] as the shape
  /// says. bias [n_experts], with sigmoids only, null: none: the choice is by sigmoid + bias, the weights are without.
  /// Numbers are distinct and in range for any logits; a row with a NaN gets NaN weights.
  void (*route)(const Exec&, const RouteShape&, const float* logits, const float* bias, std::int32_t* expert,
                float* weight);
  /// out[row[i], :] += weight[i] * x[i, :] for x [n_rows, dim] and out [*, dim]; rows are distinct. row == nullptr: row
  /// i is i.
  void (*add_weighted_rows)(const Exec&, std::int64_t n_rows, std::int64_t dim, const float* x, const std::int32_t* row,
                            const float* weight, float* out);
  /// Attention of the last tokens of one sequence (n_sequences 1) over all its keys: k and v have n_past + n_tokens
  /// rows, query row i stands at position n_past + i (shape.n_past is not looked at). For one token or two;
  /// attention() serves more of them better.
  void (*cached_attention)(const Exec&, const AttentionShape&, std::int64_t n_past, const float* q, const float* k,
                           const float* v, float* out);
  /// place[i] = where the largest of row i of `vocab` finite logits stands, the first of equal ones.
  void (*argmax)(const Exec&, std::int64_t n_rows, std::int64_t vocab, const float* logits, std::int64_t ld,
                 std::int32_t* place);
  /// Rows of `dim`: out = (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight. In place allowed.
  void (*layer_norm)(const Exec&, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                     const float* weight, float eps, float* out, std::int64_t ld_out);
  /// out = (u + 1) g / (1 + exp(-1.702 g)) over n values, g = min(gate, limit), u = up within -limit .. limit; out may
  /// be gate.
  void (*clamped_swiglu)(const Exec&, std::int64_t n, float limit, const float* gate, const float* up, float* out);
  /// Copies parts of rows; those of out do not overlap, nor with x.
  void (*copy_heads)(const Exec&, const HeadParts&, const float* x, float* out);
};

}  // namespace voronoi::kernels
