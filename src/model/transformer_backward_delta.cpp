// The backward pass of the delta rule, where it is in the place of attention.
#include <algorithm>

#include "model/transformer_backward.h"

namespace voronoi::model {

void Transformer::Impl::Backward::delta_half(std::int64_t n_sequences, std::int64_t n_tokens, const float* entered,
                                             const AttentionTape& tape, const float* d_left, float* gradient) const {
  const DeltaConfig& delta = config.delta;
  const kernels::DeltaRuleKernels& rule = context.delta_rule();
  const auto& exec = context.exec();
  const SitePlaces& places = model.places;
  const std::int64_t n_rows = n_sequences * n_tokens, dim = config.hidden_size, keys = delta.keys(),
                     values = delta.values(), channels = delta.channels(), joined = channels + values,
                     heads = delta.value_heads, n_values = product(n_rows, values);
  const auto floats = [&](std::int64_t width) { return Floats(context, product(n_rows, width)); };

  // What the tape has not.
  Floats convolved = floats(channels), q = floats(keys), k = floats(keys), rates = floats(2 * heads);
  DeltaRows rows{};
  rows.n_rows = n_rows;
  rows.convolved = convolved.data();
  rows.q = q.data();
  rows.k = k.data();
  rows.rates = rates.data();
  rows.low = tape.low.data();
  rule.conv(exec, model.conv_shape(n_sequences, n_tokens), tape.qkv.data(), nullptr, weights.conv.data(),
            convolved.data());
  model.delta_prepare(weights, rows);
  const std::int64_t head_rows = n_rows * heads, head_dim = delta.value_dim;
  const auto eps = static_cast<float>(config.norm_eps);
  Floats normed_values = floats(values), left = floats(values);
  context.nn().rms_norm(exec, head_rows, head_dim, tape.attended.data(), head_dim, weights.delta_norm.data(), eps,
                        normed_values.data(), head_dim);
  context.nn().swiglu(exec, n_values, tape.gate.data(), normed_values.data(), left.data());

  // Through the gated norm.
  const float* d_out =
      before_out_norm(n_rows, tape.out, weights.attention_out_norm, d_left, &BlockGradients::attention_out_norm);
  Floats d_gate = floats(values), d_attended = floats(values);
  linear(places.o, 0, n_rows, left.data(), d_out, false, d_attended.data());
  kernels.swiglu(exec, n_values, tape.gate.data(), normed_values.data(), d_attended.data(), d_gate.data(), left.data());
  kernels.rms_norm(exec, head_rows, head_dim, tape.attended.data(), head_dim, weights.delta_norm.data(), eps,
                   left.data(), head_dim, false, d_attended.data(), head_dim, sum(&BlockGradients::delta_norm));

  // Through the rule: q and k are those of several heads of values.
  Floats d_convolved = floats(channels), d_queries = floats(heads * delta.key_dim),
         d_keys = floats(heads * delta.key_dim), d_rates = floats(2 * heads);
  rule.rule_gradient(exec, model.delta_shape(n_sequences, n_tokens), q.data(), k.data(), convolved.data() + 2 * keys,
                     rates.data(), d_attended.data(), d_queries.data(), d_keys.data(), d_convolved.data() + 2 * keys,
                     d_rates.data());
  const std::int64_t shared = heads / delta.key_heads, key_dim = delta.key_dim, key_rows = n_rows * delta.key_heads;
  float* d_part = d_convolved.data();
  const float* part = convolved.data();
  for (const Floats* d_heads : {&d_queries, &d_keys}) {
    // In the place of q and k, which are of no more use.
    context.nn().copy_heads(exec, {n_rows, 1, keys, channels, 0, keys, 0}, part, q.data());
    kernels.sum_heads(exec, {key_rows, shared, key_dim, shared * key_dim, key_dim, key_dim, 0}, d_heads->data(),
                      k.data());
    kernels.rms_norm(exec, key_rows, key_dim, q.data(), key_dim, model.key_norm(), model.key_eps(), k.data(), key_dim,
                     false, k.data(), key_dim, nullptr);
    context.nn().copy_heads(exec, {n_rows, 1, keys, keys, 0, channels, 0}, k.data(), d_part);
    part += keys;
    d_part += keys;
  }

  // To the projections.
  Floats d_mixed = floats(channels), d_joined = floats(joined), d_low = floats(2 * heads), terms = floats(2 * heads);
  rule.conv_gradient(exec, model.conv_shape(n_sequences, n_tokens), tape.qkv.data(), weights.conv.data(),
                     d_convolved.data(), d_mixed.data(), sum(&BlockGradients::conv));
  for_each_delta_part(delta, [&](std::int64_t width, std::int64_t from, std::int64_t to) {
    const bool gate = to < 0;
    context.nn().copy_heads(
        exec, {n_rows, delta.key_heads, width, gate ? values : channels, width, joined, joined / delta.key_heads},
        gate ? d_gate.data() : d_mixed.data() + to, d_joined.data() + from);
  });
  rule.gates_gradient(exec, n_rows, delta.key_heads, heads, tape.low.data(), weights.log_decay.data(),
                      weights.decay_bias.data(), rates.data(), d_rates.data(), d_low.data(), terms.data());
  if (sums != nullptr) {
    kernels.column_sums(exec, n_rows, heads, terms.data(), 2 * heads, sums->log_decay.data());
    kernels.column_sums(exec, n_rows, heads, terms.data() + heads, 2 * heads, sums->decay_bias.data());
  }
  const float* x = normed(n_rows, entered, weights.input_norm);
  float* d_normed = grow(context, model.work_d_normed, product(n_rows, dim));
  linear(places.qkv, 0, n_rows, x, d_joined.data(), false, d_normed);
  small_linear(n_rows, 2 * heads, weights.delta_gates, x, d_low.data(), &BlockGradients::delta_gates, d_normed);
  before_norm(n_rows, entered, weights.input_norm, d_normed, gradient, &BlockGradients::input_norm);
}

}  // namespace voronoi::model
