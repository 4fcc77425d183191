// Linear attention by the gated delta rule (Yang, Kautz, Hatamizadeh 2024, Gated Delta Networks, equation 10) and what
// stands around it in Qwen3-Next: fp32, tokens as rows, device memory. Results do not depend on the thread count; what
// a sequence gives does not depend on those beside it, nor on how its tokens are divided over calls.
#pragma once

#include <cstdint>

#include "kernels/exec.h"

namespace voronoi::kernels {

/// A depthwise causal convolution of n_sequences [n_tokens, channels], sequence-major and contiguous.
struct ConvShape {
  std::int64_t n_sequences, n_tokens, channels, width;  ///< width >= 1
};

/// Of the rule. Sequence s has the rows s * rows_apart and the n_tokens - 1 behind it. Head h of values is with head
/// h / (n_heads / n_key_heads) of keys and queries. Heads of a row are contiguous.
struct DeltaShape {
  std::int64_t n_sequences, n_tokens, rows_apart;
  std::int64_t n_key_heads, n_heads, key_dim, value_dim;
  std::int64_t ld_v;  ///< between rows of v; those of q, k and out have n_key_heads key_dim, n_heads value_dim values
  float scale;        ///< on q
};

struct DeltaRuleKernels {
  /// out[t, c] = silu(sum over j of weight[c, j] x[t - width + 1 + j, c]), weight [channels, width]. past [n_sequences,
  /// width - 1, channels]: the rows before the first ones; null: zeros. out is not x.
  void (*conv)(const Exec&, const ConvShape&, const float* x, const float* past, const float* weight, float* out);
  /// Its derivative, without a past: d_out becomes that by what entered silu, dx is overwritten, d_weight [channels,
  /// width] is added to (null: not wanted). dx is not d_out.
  void (*conv_gradient)(const Exec&, const ConvShape&, const float* x, const float* weight, float* d_out, float* dx,
                        float* d_weight);
  /// How much of the state stays and how much is written. A row of x holds for each of n_groups heads of keys b, then
  /// a, of its n_heads / n_groups heads of values; gates [n_rows, 2 n_heads] are exp(-exp(log_decay) softplus(a +
  /// bias)), then sigmoid(b); log_decay and bias [n_heads].
  void (*gates)(const Exec&, std::int64_t n_rows, std::int64_t n_groups, std::int64_t n_heads, const float* x,
                const float* log_decay, const float* bias, float* gates);
  /// Its derivative: dx [n_rows, 2 n_heads] and terms [n_rows, 2 n_heads] are overwritten, the latter with what each
  /// row adds to the gradients of log_decay, then of bias.
  void (*gates_gradient)(const Exec&, std::int64_t n_rows, std::int64_t n_groups, std::int64_t n_heads, const float* x,
                         const float* log_decay, const float* bias, const float* gates, const float* d_gates, float* dx,
                         float* terms);
  /// For each sequence and head, with the row's gates d and b: S = d S + k (b (v - d S^T k))^T, out = scale S^T q. S
  /// [key_dim, value_dim] of each [n_sequences, n_heads] is `before` at first (null: zeros) and ends as `after` (null:
  /// not wanted; may be `before`).
  void (*rule)(const Exec&, const DeltaShape&, const float* q, const float* k, const float* v, const float* gates,
               const float* before, float* out, float* after);
  /// Its derivative, from zeros, rows_apart being n_tokens: dq, dk [rows, n_heads, key_dim] of each head of values, dv
  /// (rows ld_v apart) and d_gates are overwritten. States are kept every kDeltaChunk tokens and made again between.
  void (*rule_gradient)(const Exec&, const DeltaShape&, const float* q, const float* k, const float* v,
                        const float* gates, const float* d_out, float* dq, float* dk, float* dv, float* d_gates);
  /// out = x / (1 + exp(-gate)) over n values; out may be x.
  void (*sigmoid_gate)(const Exec&, std::int64_t n, const float* gate, const float* x, float* out);
  /// Its derivative: d_gate and dx are overwritten; dx may be d_out.
  void (*sigmoid_gate_gradient)(const Exec&, std::int64_t n, const float* gate, const float* x, const float* d_out,
                                float* d_gate, float* dx);
};

/// Tokens between states that rule_gradient keeps.
inline constexpr std::int64_t kDeltaChunk = 32;

}  // namespace voronoi::kernels
