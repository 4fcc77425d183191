// The backward pass of a block. Private to model/transformer_backward*.cpp.
#pragma once

#include <utility>

#include "core/work_counts.h"
#include "model/transformer_impl.h"

namespace voronoi::model {

/// One block's backward pass. In every half `d_left` [n_rows, hidden_size] is the derivative by what left the half, and
/// what follows from it for what entered the half is added to `gradient`. These are the same array, where the residual
/// stream's part stays, unless the halves stand beside each other.
struct Transformer::Impl::Backward {
  using Floats = backend::Array<float>;

  Impl& model;
  const BlockWeights& weights;
  BlockGradients* sums;
  const GradientObserver& observer;
  backend::Context& context = model.context;
  const ModelConfig& config = model.config;
  const kernels::NnGradientKernels& kernels = context.nn_gradient();

  /// Where the sum of a gradient goes; null: it is not wanted.
  float* sum(Floats BlockGradients::*part) const { return sums == nullptr ? nullptr : (sums->*part).data(); }

  void norm(std::int64_t n_rows, std::int64_t dim, const float* x, const Floats& weight, const float* d_out,
            bool accumulate, float* dx, Floats BlockGradients::*part) const {
    model.norm_gradient(n_rows, dim, x, weight.data(), d_out, accumulate, dx, sum(part));
  }

  /// dx [n_rows, in_features] = dy W (+ dx) of a linear that took x.
  void linear(std::size_t site, std::size_t index, std::int64_t n_rows, const float* x, const float* dy,
              bool accumulate, float* dx) const {
    const SiteSpec& spec = model.block(weights)[site];
    const LinearSpec& linear = spec.linears[index];
    if (observer) observer(spec, site, index, n_rows, x, dy);
    if (linear.has_bias && sums != nullptr)
      kernels.column_sums(context.exec(), n_rows, linear.out_features, dy, linear.out_features,
                          sums->biases[site][index].data());
    multiply_transposed(context, weights.linears[site][index], n_rows, linear.out_features, linear.in_features, dy,
                        accumulate, dx);
  }

  /// The derivative by what left a half's last linear: d_left, scaled, or through the norm of `raw` that followed.
  const float* before_out_norm(std::int64_t n_rows, const Floats& raw, const Floats& weight, const float* d_left,
                               Floats BlockGradients::*part) const {
    if (weight.empty() && config.residual_scale == 1) return d_left;
    const std::int64_t n = product(n_rows, config.hidden_size);
    float* d_raw = grow(context, model.work_out, n);
    if (config.residual_scale != 1) {
      context.memory().copy_on_device(context.exec(), d_left, product(n, sizeof(float)), d_raw);
      context.nn().scale(context.exec(), n, static_cast<float>(config.residual_scale), d_raw);
      d_left = d_raw;
    }
    if (!weight.empty()) norm(n_rows, config.hidden_size, raw.data(), weight, d_left, false, d_raw, part);
    return d_raw;
  }

  /// gradient += what d_entered, by what entered a half's linears, is by what entered its norm.
  void before_norm(std::int64_t n_rows, const float* entered, const Floats& weight, const float* d_entered,
                   float* gradient, Floats BlockGradients::*part) const {
    if (weight.empty())
      context.nn().add(context.exec(), product(n_rows, config.hidden_size), d_entered, gradient);
    else
      norm(n_rows, config.hidden_size, entered, weight, d_entered, true, gradient, part);
  }

  /// d_normed += dy W, and the sum of dy^T normed, for a matrix [n_out, hidden_size] that is no linear of a site.
  void small_linear(std::int64_t n_rows, std::int64_t n_out, const Floats& weight, const float* normed, const float* dy,
                    Floats BlockGradients::*part, float* d_normed) const {
    const std::int64_t dim = config.hidden_size;
    core::count_product(n_rows, n_out, dim);
    if (float* total = sum(part)) {
      core::count_product(n_rows, n_out, dim);
      context.linalg().gemm_f32(context.exec(), true, false, n_out, dim, n_rows, 1.0F, dy, n_out, normed, dim, 1.0F,
                                total, dim);
    }
    context.linalg().gemm_f32(context.exec(), false, false, n_rows, dim, n_out, 1.0F, dy, n_out, weight.data(), dim,
                              1.0F, d_normed, dim);
  }

  /// What a half's norm made of what entered it.
  const float* normed(std::int64_t n_rows, const float* entered, const Floats& weight) const {
    return model.half_input(n_rows, entered, weight,
                            grow(context, model.work_normed, product(n_rows, config.hidden_size)));
  }

  /// dx [n_rows, hidden_size] (+)= through the pair of sites at `gate_up`, which took x; d_out: by what left it.
  void gated(std::size_t gate_up, std::int64_t n_rows, const float* x, const Floats& tape, const float* d_out,
             bool accumulate, float* dx) const;

  /// d_normed = through the mixture, part by part as it is computed again.
  void mixture(std::int64_t n_rows, const float* normed, const float* d_left, float* d_normed) const;

  /// The half as far as its tape goes, in the model's own.
  const FeedForwardTape& feed_forward_again(std::int64_t n_rows, const float* normed) const;

  /// entered [n_rows, hidden_size]: the half. kept: its tape, null: it runs again.
  void feed_forward_half(std::int64_t n_rows, const float* entered, const FeedForwardTape* kept, const float* d_left,
                         float* gradient) const;

  /// d_normed = through the projections of latent attention, which took x. dq, dk, dv: of their heads.
  void latent(std::int64_t n_rows, const float* x, const AttentionTape& tape, const float* dq, const float* dk,
              const float* dv, float* d_normed) const;

  /// d_attended [n_rows, heads]: of attention's result, from that of what entered the output projection.
  void spread_values(std::int64_t n_rows, const float* d_values, float* d_attended) const;

  /// Through attention and the turning of its queries and keys.
  void attention(std::int64_t n_sequences, std::int64_t n_tokens, const AttentionTape& tape, const float* d_attended,
                 float* dq, float* dk, float* dv) const;

  /// entered [n_sequences * n_tokens, hidden_size]: the half.
  void attention_half(std::int64_t n_sequences, std::int64_t n_tokens, const float* entered, const AttentionTape& tape,
                      const float* d_left, float* gradient) const;

  /// As attention_half, where the delta rule is in its place.
  void delta_half(std::int64_t n_sequences, std::int64_t n_tokens, const float* entered, const AttentionTape& tape,
                  const float* d_left, float* gradient) const;

  /// d_normed = through the projections of queries, keys and values that took x; d_gate: of what is on the result, null
  /// where there is nothing.
  void qkv(std::int64_t n_rows, const float* x, const float* dq, const float* d_gate, const float* dk, const float* dv,
           float* d_normed) const;

  /// A batch of sequences: what entered its two halves, their tapes (of the feed-forward half one a slab, null: it runs
  /// again).
  void batch(std::int64_t n_sequences, std::int64_t n_tokens, const float* entered, const float* middle,
             const AttentionTape& attention, const FeedForwardTape* feed_forward, float* gradient) const;
};

}  // namespace voronoi::model
