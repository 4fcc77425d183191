// Derivatives of the operations of kernels/nn.h, fp32, tokens as rows, device memory. d<name> is the derivative of the
// loss by <name>. Gradients of inputs that have one use are overwritten, those of what has several uses (weights, the
// residual stream) are added to: each entry says which. Sums over rows go in a fixed order; results do not depend on
// the thread count.
#pragma once

#include <cstdint>

#include "kernels/exec.h"
#include "kernels/nn.h"

namespace voronoi::kernels {

struct NnGradientKernels {
  /// Of rms_norm, out = x / sqrt(mean(x^2) + eps) * weight: dx [n_rows, ldx] is overwritten, or added to when
  /// `accumulate`, and may be d_out when it is not; d_weight [dim] += sum over rows, null: not wanted.
  void (*rms_norm)(const Exec&, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                   const float* weight, float eps, const float* d_out, std::int64_t ld_out, bool accumulate, float* dx,
                   std::int64_t ld_dx, float* d_weight);
  /// Of rope, in place: dx becomes the gradient of what was turned (turned back by the same angles).
  void (*rope)(const Exec&, const RopeShape&, const float* cos_sin, float* dx, std::int64_t ldx);
  /// Of attention (not of cached_attention), shape.compute counting as f32: q, k, v and out as the forward pass had
  /// and made them, d_out with out's layout; dq, dk, dv are overwritten, with the layouts of q, k and v. Nothing of
  /// n_tokens x n_tokens is materialised. d_sinks [rows, n_heads], overwritten: by each row's use of its heads' sinks,
  /// whose gradient is their sum; null where there are none.
  void (*attention)(const Exec&, const AttentionShape&, const float* q, const float* k, const float* v,
                    const float* out, const float* d_out, float* dq, float* dk, float* dv, float* d_sinks);
  /// Of swiglu over n values: d_gate and d_up are overwritten; d_gate may be d_out.
  void (*swiglu)(const Exec&, std::int64_t n, const float* gate, const float* up, const float* d_out, float* d_gate,
                 float* d_up);
  /// Of geglu, likewise.
  void (*geglu)(const Exec&, std::int64_t n, const float* gate, const float* up, const float* d_out, float* d_gate,
                float* d_up);
  /// Of soft_cap over n values, in place: dx *= 1 - (y / cap)^2, y the capped values.
  void (*soft_cap)(const Exec&, std::int64_t n, float cap, const float* y, float* dx);
  /// Of sigmoid over n values, in place: dx *= y (1 - y), y its values.
  void (*sigmoid)(const Exec&, std::int64_t n, const float* y, float* dx);
  /// sum [dim] += sum over rows of x [n_rows, dim]: the gradient of a bias.
  void (*column_sums)(const Exec&, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx, float* sum);
  /// Of route: expert [n_rows, top_k] and weight as it chose and gave them, d_weight [n_rows, top_k]; d_logits
  /// [n_rows, n_experts] is overwritten. The choice is constant.
  void (*route)(const Exec&, const RouteShape&, const float* logits, const std::int32_t* expert, const float* weight,
                const float* d_weight, float* d_logits);
  /// Of add_weighted_rows, out[row[i], :] += weight[i] * x[i, :]: dx[i, :] = weight[i] * d_out[row[i], :] and
  /// d_weight[i] = d_out[row[i], :] . x[i, :] are overwritten; dx may be x. row == nullptr: row i is i.
  void (*weighted_rows)(const Exec&, std::int64_t n_rows, std::int64_t dim, const float* x, const std::int32_t* row,
                        const float* weight, const float* d_out, float* dx, float* d_weight);
  /// sum[i] = the sum of squares of row i of x [n_rows, dim], overwritten.
  void (*square_sums)(const Exec&, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx, float* sum);
  /// Of gather_rows: sum[ids[i], :] += x[i, :] for x [n_ids, dim], those of one id in the order of i. Ids may repeat.
  void (*scatter_rows)(const Exec&, const std::int32_t* ids, std::int64_t n_ids, std::int64_t dim, const float* x,
                       float* sum);
  /// Of nll: logits [n_rows, vocab] become factor * (softmax(logits) - [j = target]); nll as the forward pass gives it.
  void (*cross_entropy)(const Exec&, std::int64_t n_rows, std::int64_t vocab, float factor, const std::int32_t* target,
                        float* logits, std::int64_t ld, double* nll);
  /// Of divergence[i] = KL(softmax(teacher[i, :]) || softmax(logits[i, :])) in fp64: logits [n_rows, vocab] become
  /// factor * (softmax(logits) - softmax(teacher)). Rows of both are ld apart.
  void (*divergence)(const Exec&, std::int64_t n_rows, std::int64_t vocab, float factor, const float* teacher,
                     float* logits, std::int64_t ld, double* divergence);
  /// Of layer_norm, as rms_norm.
  void (*layer_norm)(const Exec&, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                     const float* weight, float eps, const float* d_out, std::int64_t ld_out, bool accumulate,
                     float* dx, std::int64_t ld_dx, float* d_weight);
  /// Of clamped_swiglu, as swiglu; where a value was clamped its derivative is 0.
  void (*clamped_swiglu)(const Exec&, std::int64_t n, float limit, const float* gate, const float* up,
                         const float* d_out, float* d_gate, float* d_up);
  /// Of copy_heads with step_x 0: out[r, i] = the sum over h of the parts at x + r ldx + h step_x, overwritten;
  /// step_out is not looked at.
  void (*sum_heads)(const Exec&, const HeadParts&, const float* x, float* out);
};

}  // namespace voronoi::kernels
