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
  /// cores round the softmax's numerators to it as well.
  core::DType compute = core::DType::f32;
  std::int64_t n_past = 0;
};

struct NnKernels {
  /// Rows of `dim`: out = x / sqrt(mean(x^2) + eps) * weight. In place allowed.
  void (*rms_norm)(const Exec&, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                   const float* weight, float eps, float* out, std::int64_t ld_out);
  /// Rotary embedding, halves layout (Hugging Face): for each head pairs (i, i + head_dim/2) are turned by the angle
  /// whose cosine and sine are in cos_sin[position, 0..head_dim/2) and [.., head_dim/2..head_dim). x [n_tokens_total,
  /// n_heads * head_dim]; position of row r = r % n_tokens.
  void (*rope)(const Exec&, std::int64_t n_rows, std::int64_t n_tokens, std::int64_t n_heads, std::int64_t head_dim,
               const float* cos_sin, float* x, std::int64_t ldx);
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
  /// the lower expert first among equals: expert [n_rows, top_k] their numbers, weight [n_rows, top_k] their softmax
  /// over all experts, divided by the sum of the chosen ones when `renormalise`. 1 <= top_k <= n_experts. Numbers are
  /// distinct and in range for any logits; a row with a NaN gets NaN weights.
  void (*route)(const Exec&, std::int64_t n_rows, std::int64_t n_experts, std::int64_t top_k, bool renormalise,
                const float* logits, std::int32_t* expert, float* weight);
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
};

}  // namespace voronoi::kernels
