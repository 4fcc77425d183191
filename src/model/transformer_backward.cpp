// The backward pass of a block: a tape walked back, half by half, which the forward pass kept, or keeps as it runs
// again.
#include "model/transformer_backward.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/work_counts.h"

namespace voronoi::model {

void Transformer::Impl::Backward::gated(std::size_t gate_up, std::int64_t n_rows, const float* x, const Floats& tape,
                                        const float* d_out, bool accumulate, float* dx) const {
  const std::int64_t inner = model.block(weights)[gate_up + 1].in_features, n = product(n_rows, inner);
  float* d_gate = grow(context, model.work_d_wide, product(n, 2));
  float* d_up = d_gate + n;
  float* entered_down = grow(context, model.work_wide, n);
  model.gate(n, tape.data(), entered_down);
  linear(gate_up + 1, 0, n_rows, entered_down, d_out, false, d_gate);
  if (config.activation == Activation::clamped_silu) {
    kernels.clamped_swiglu(context.exec(), n, static_cast<float>(config.gate_limit), tape.data(), tape.data() + n,
                           d_gate, d_gate, d_up);
  } else {
    const auto kernel = config.activation == Activation::silu ? kernels.swiglu : kernels.geglu;
    kernel(context.exec(), n, tape.data(), tape.data() + n, d_gate, d_gate, d_up);
  }
  if (!config.fused_gate_up) {
    linear(gate_up, 0, n_rows, x, d_gate, accumulate, dx);
    linear(gate_up, 1, n_rows, x, d_up, true, dx);
    return;
  }
  // As one table of 2 n_rows rows, gates and then ups: each row of the fused product is a gate and its up.
  std::vector<std::int32_t> order(static_cast<std::size_t>(2 * n_rows));
  for (std::int64_t i = 0; i < 2 * n_rows; ++i)
    order[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i % 2 * n_rows + i / 2);
  const backend::Array<std::int32_t> index(context, std::span<const std::int32_t>(order));
  float* joined = grow(context, model.work_wide, product(n, 2));
  context.linalg().gather_rows_f32(context.exec(), index.data(), 2 * n_rows, inner, d_gate, joined);
  linear(gate_up, 0, n_rows, x, joined, accumulate, dx);
}

void Transformer::Impl::Backward::mixture(std::int64_t n_rows, const float* normed, const float* d_left,
                                          float* d_normed) const {
  const MixtureConfig& mixture = config.mixture;
  const std::int64_t dim = config.hidden_size, n_chosen = product(n_rows, mixture.top_k);
  const auto& exec = context.exec();
  MixtureTape& tape = model.mixture_tape;
  Floats d_weight(context, n_chosen), d_grouped(context, n_chosen),
      d_logits(context, product(n_rows, mixture.n_experts)), d_gate(context, mixture.shared_size > 0 ? n_rows : 0);
  context.memory().zero(exec, product(product(n_rows, dim), sizeof(float)), d_normed);
  tape.part = [&](const MixturePart& part) {
    const bool shared = part.row == nullptr;
    float* d_part_weight = shared ? d_gate.data() : d_grouped.data() + part.place;
    kernels.weighted_rows(exec, part.n_rows, dim, part.out, part.row, part.weight, d_left, part.out, d_part_weight);
    if (shared) {
      gated(part.gate_up, part.n_rows, part.x, tape.gate_up, part.out, true, d_normed);
      if (!mixture.shared_gate) return;
      kernels.sigmoid(exec, n_rows, part.weight, d_gate.data());
      small_linear(n_rows, 1, weights.shared_gate, part.x, d_gate.data(), &BlockGradients::shared_gate, d_normed);
      return;
    }
    float* dx = grow(context, model.work_d_expert, product(part.n_rows, dim));
    gated(part.gate_up, part.n_rows, part.x, tape.gate_up, part.out, false, dx);
    if (part.input_weight != nullptr)
      kernels.weighted_rows(exec, part.n_rows, dim, part.unweighted, nullptr, part.input_weight, dx, dx, d_part_weight);
    kernels.scatter_rows(exec, part.row, part.n_rows, dim, dx, d_normed);
  };
  model.mixture(weights, n_rows, normed, nullptr, nullptr, 0, &tape);
  tape.part = nullptr;
  context.linalg().gather_rows_f32(exec, tape.places.data(), n_chosen, 1, d_grouped.data(), d_weight.data());
  kernels.route(exec, model.route_shape(n_rows), tape.logits.data(), tape.expert.data(), tape.weight.data(),
                d_weight.data(), d_logits.data());
  if (!weights.router_bias.empty() && sums != nullptr)
    kernels.column_sums(exec, n_rows, mixture.n_experts, d_logits.data(), mixture.n_experts, sums->router_bias.data());
  small_linear(n_rows, mixture.n_experts, weights.router, normed, d_logits.data(), &BlockGradients::router, d_normed);
}

const FeedForwardTape& Transformer::Impl::Backward::feed_forward_again(std::int64_t n_rows, const float* normed) const {
  FeedForwardTape& tape = model.feed_forward_tape;
  if (weights.feed_forward_out_norm.empty()) {
    model.gate_and_up(weights, model.places.gate_up, n_rows, normed, nullptr, &tape.gate_up);
  } else {
    const float* inner = model.gated(weights, model.places.gate_up, n_rows, normed, nullptr, &tape.gate_up);
    model.linear(weights, model.places.gate_up + 1, 0, n_rows, inner, false,
                 grow(context, tape.out, product(n_rows, config.hidden_size)));
  }
  return tape;
}

void Transformer::Impl::Backward::feed_forward_half(std::int64_t n_rows, const float* entered,
                                                    const FeedForwardTape* kept, const float* d_left,
                                                    float* gradient) const {
  const bool parallel = config.parallel_block;
  const Floats& weight = parallel ? weights.input_norm : weights.feed_forward_norm;
  const float* x = normed(n_rows, entered, weight);
  float* d_normed = grow(context, model.work_d_normed, product(n_rows, config.hidden_size));
  if (is_mixture(config, weights.layer)) {
    mixture(n_rows, x, d_left, d_normed);
  } else {
    const FeedForwardTape& tape = kept == nullptr ? feed_forward_again(n_rows, x) : *kept;
    const float* d_out = before_out_norm(n_rows, tape.out, weights.feed_forward_out_norm, d_left,
                                         &BlockGradients::feed_forward_out_norm);
    gated(model.places.gate_up, n_rows, x, tape.gate_up, d_out, false, d_normed);
  }
  before_norm(n_rows, entered, weight, d_normed, gradient,
              parallel ? &BlockGradients::input_norm : &BlockGradients::feed_forward_norm);
}

void Transformer::Impl::Backward::latent(std::int64_t n_rows, const float* x, const AttentionTape& tape,
                                         const float* dq, const float* dk, const float* dv, float* d_normed) const {
  const LatentConfig& latent = config.latent;
  const auto& exec = context.exec();
  const SitePlaces& places = model.places;
  const std::int64_t kv_low = latent.kv_rank + latent.rope, wide_head = latent.nope + latent.value,
                     wide = config.n_heads * wide_head, dim = config.head_dim, kv_dim = config.n_kv_heads * dim;
  const float *q_low = tape.low.data(), *low = q_low + n_rows * latent.q_rank;
  const std::int64_t widest = std::max(latent.q_rank, kv_low);
  float* entered = grow(context, model.work_expert, product(n_rows, widest));
  float* d_entered = grow(context, model.work_d_expert, product(n_rows, 2 * widest));
  float* d_low = d_entered + n_rows * widest;
  if (latent.q_rank > 0) {
    context.nn().rms_norm(exec, n_rows, latent.q_rank, q_low, latent.q_rank, weights.q_low_norm.data(), kLowNormEps,
                          entered, latent.q_rank);
    linear(places.q_b, 0, n_rows, entered, dq, false, d_entered);
    kernels.rms_norm(exec, n_rows, latent.q_rank, q_low, latent.q_rank, weights.q_low_norm.data(), kLowNormEps,
                     d_entered, latent.q_rank, false, d_low, latent.q_rank, sum(&BlockGradients::q_low_norm));
    linear(places.qkv, 0, n_rows, x, d_low, false, d_normed);
  } else {
    linear(places.qkv, 0, n_rows, x, dq, false, d_normed);
  }
  float* d_heads = grow(context, model.work_out, product(n_rows, wide));
  context.nn().copy_heads(exec, {n_rows, config.n_heads, latent.nope, kv_dim, dim, wide, wide_head}, dk, d_heads);
  context.nn().copy_heads(exec, {n_rows, config.n_heads, latent.value, kv_dim, dim, wide, wide_head}, dv,
                          d_heads + latent.nope);
  context.nn().rms_norm(exec, n_rows, latent.kv_rank, low, kv_low, weights.kv_low_norm.data(), kLowNormEps, entered,
                        latent.kv_rank);
  linear(places.kv_b, 0, n_rows, entered, d_heads, false, d_entered);
  kernels.rms_norm(exec, n_rows, latent.kv_rank, low, kv_low, weights.kv_low_norm.data(), kLowNormEps, d_entered,
                   latent.kv_rank, false, d_low, kv_low, sum(&BlockGradients::kv_low_norm));
  kernels.sum_heads(exec, {n_rows, config.n_heads, latent.rope, kv_dim, dim, kv_low, 0}, dk + latent.nope,
                    d_low + latent.kv_rank);
  linear(places.qkv, 1, n_rows, x, d_low, true, d_normed);
}

void Transformer::Impl::Backward::spread_values(std::int64_t n_rows, const float* d_values, float* d_attended) const {
  const std::int64_t value = config.latent.value, dim = config.head_dim, n_heads = config.n_heads;
  context.memory().zero(context.exec(), product(product(n_rows, n_heads * dim), sizeof(float)), d_attended);
  context.nn().copy_heads(context.exec(), {n_rows, n_heads, value, n_heads * value, value, n_heads * dim, dim},
                          d_values, d_attended);
}

void Transformer::Impl::Backward::attention(std::int64_t n_sequences, std::int64_t n_tokens, const AttentionTape& tape,
                                            const float* d_attended, float* dq, float* dk, float* dv) const {
  const std::int64_t n_rows = n_sequences * n_tokens;
  const AttentionParts parts = model.attention_parts(n_rows);
  const kernels::AttentionShape shape = model.attention_shape(weights, n_sequences, n_tokens);
  const float* q = tape.qkv.data();
  Floats d_sinks(context, shape.sinks == nullptr ? 0 : product(n_rows, config.n_heads));
  for_each_chunk(shape, model.chunk_of(weights),
                 [&](const kernels::AttentionShape& piece, std::int64_t row, std::int64_t key) {
                   const std::int64_t in_q = row * shape.ld_q, in_out = row * shape.ld_out, in_kv = key * shape.ld_kv;
                   core::count_work(core::Counted::gemm_flops, kAttentionBackward * piece_flops(piece));
                   kernels.attention(context.exec(), piece, q + in_q, q + parts.k + in_kv, q + parts.v + in_kv,
                                     tape.attended.data() + in_out, d_attended + in_out, dq + in_q, dk + in_kv,
                                     dv + in_kv, d_sinks.empty() ? nullptr : d_sinks.data() + row * config.n_heads);
                 });
  if (!d_sinks.empty() && sums != nullptr)
    kernels.column_sums(context.exec(), n_rows, config.n_heads, d_sinks.data(), config.n_heads, sums->sinks.data());
  const Turn turning = model.turn_of(weights.layer, n_tokens, n_tokens);
  model.turn(kernels.rope, turning, n_rows, n_tokens, 0, config.n_heads, dq, shape.ld_q);
  if (turning.keys) model.turn(kernels.rope, turning, n_rows, n_tokens, 0, config.n_kv_heads, dk, shape.ld_kv);
}

void Transformer::Impl::Backward::qkv(std::int64_t n_rows, const float* x, const float* dq, const float* d_gate,
                                      const float* dk, const float* dv, float* d_normed) const {
  const std::size_t site = model.places.qkv;
  if (d_gate == nullptr) {
    linear(site, 0, n_rows, x, dq, false, d_normed);
  } else {
    const std::int64_t dim = config.head_dim, n_heads = config.n_heads;
    const kernels::HeadParts parts{n_rows, n_heads, dim, n_heads * dim, dim, 2 * n_heads * dim, 2 * dim};
    Floats both(context, product(n_rows, 2 * n_heads * dim));
    context.nn().copy_heads(context.exec(), parts, dq, both.data());
    context.nn().copy_heads(context.exec(), parts, d_gate, both.data() + dim);
    linear(site, 0, n_rows, x, both.data(), false, d_normed);
  }
  if (config.fused_qkv) return;
  linear(site, 1, n_rows, x, dk, true, d_normed);
  linear(site, 2, n_rows, x, dv, true, d_normed);
}

void Transformer::Impl::Backward::attention_half(std::int64_t n_sequences, std::int64_t n_tokens, const float* entered,
                                                 const AttentionTape& tape, const float* d_left,
                                                 float* gradient) const {
  const SitePlaces& places = model.places;
  const std::int64_t n_rows = n_sequences * n_tokens, dim = config.hidden_size;
  const std::int64_t q_dim = config.n_heads * config.head_dim, kv_dim = config.n_kv_heads * config.head_dim;
  const AttentionParts parts = model.attention_parts(n_rows);
  float* d_attended = grow(context, model.work_d_wide, product(n_rows, 2 * (q_dim + kv_dim)));
  float* dq = d_attended + n_rows * q_dim;
  float *dk = dq + parts.k, *dv = dq + parts.v;
  const float* d_out =
      before_out_norm(n_rows, tape.out, weights.attention_out_norm, d_left, &BlockGradients::attention_out_norm);
  const float* left = model.attention_values(n_rows, tape.attended.data(), tape.gate.data());
  Floats d_gate(context, config.attention_gate ? product(n_rows, q_dim) : 0);
  if (left == tape.attended.data()) {
    linear(places.o, 0, n_rows, left, d_out, false, d_attended);
  } else if (config.attention_gate) {
    linear(places.o, 0, n_rows, left, d_out, false, d_attended);
    context.delta_rule().sigmoid_gate_gradient(context.exec(), d_gate.size(), tape.gate.data(), tape.attended.data(),
                                               d_attended, d_gate.data(), d_attended);
  } else {  // dq is not in use yet
    linear(places.o, 0, n_rows, left, d_out, false, dq);
    spread_values(n_rows, dq, d_attended);
  }
  attention(n_sequences, n_tokens, tape, d_attended, dq, dk, dv);
  if (!weights.q_norm.empty()) {
    const float* raw = tape.raw_qk.data();
    const std::int64_t q_width = weights.q_norm.size(), k_width = weights.k_norm.size();
    norm(n_rows * (q_dim / q_width), q_width, raw, weights.q_norm, dq, false, dq, &BlockGradients::q_norm);
    norm(n_rows * (kv_dim / k_width), k_width, raw + parts.k, weights.k_norm, dk, false, dk, &BlockGradients::k_norm);
  }
  const float* x = normed(n_rows, entered, weights.input_norm);
  float* d_normed = grow(context, model.work_d_normed, product(n_rows, dim));
  if (config.latent.kv_rank > 0)
    latent(n_rows, x, tape, dq, dk, dv, d_normed);
  else
    qkv(n_rows, x, dq, d_gate.empty() ? nullptr : d_gate.data(), dk, dv, d_normed);
  before_norm(n_rows, entered, weights.input_norm, d_normed, gradient, &BlockGradients::input_norm);
}

void Transformer::Impl::Backward::batch(std::int64_t n_sequences, std::int64_t n_tokens, const float* entered,
                                        const float* middle, const AttentionTape& attention,
                                        const FeedForwardTape* feed_forward, float* gradient) const {
  const std::int64_t n_rows = n_sequences * n_tokens, dim = config.hidden_size, n = product(n_rows, dim);
  const float *entered_second = middle, *d_left = gradient;
  if (config.parallel_block) {
    float* copy = grow(context, model.work_left, n);
    context.memory().copy_on_device(context.exec(), gradient, product(n, sizeof(float)), copy);
    d_left = copy;
    entered_second = entered;
  }
  for (std::int64_t r = 0; r < n_rows; r += kFeedForwardRows)
    feed_forward_half(std::min(kFeedForwardRows, n_rows - r), entered_second + r * dim,
                      feed_forward == nullptr ? nullptr : feed_forward++, d_left + r * dim, gradient + r * dim);
  if (is_delta(config, weights.layer))
    delta_half(n_sequences, n_tokens, entered, attention, d_left, gradient);
  else
    attention_half(n_sequences, n_tokens, entered, attention, d_left, gradient);
}

std::int64_t tape_bytes(const ModelConfig& config, std::int64_t layer, std::int64_t n_rows) {
  const std::int64_t q_dim = config.n_heads * config.head_dim, kv_dim = config.n_kv_heads * config.head_dim;
  std::int64_t values = 2 * config.hidden_size;
  if (is_delta(config, layer)) {
    const DeltaConfig& delta = config.delta;
    values += delta.channels() + 2 * delta.values() + 2 * delta.value_heads;
  } else {
    values += 2 * (q_dim + kv_dim) + (config.attention_gate ? q_dim : 0);
    if (config.qk_norm) values += q_dim + kv_dim;
  }
  values += config.latent.kv_rank > 0 ? config.latent.q_rank + config.latent.kv_rank + config.latent.rope : 0;
  if (!config.norms.attention_out.empty()) values += config.hidden_size;
  if (!is_mixture(config, layer)) {
    values += 2 * config.intermediate_size;
    if (!config.norms.feed_forward_out.empty()) values += config.hidden_size;
  }
  return product(product(n_rows, values), sizeof(float));
}

BlockGradients Transformer::make_gradients(const BlockWeights& weights) const {
  const auto zeros = [&](const backend::Array<float>& like) {
    backend::Array<float> array;
    if (!like.empty()) array = backend::Array<float>(impl_->context, like.size());
    array.zero();
    return array;
  };
  BlockGradients gradients;
  gradients.input_norm = zeros(weights.input_norm);
  gradients.feed_forward_norm = zeros(weights.feed_forward_norm);
  gradients.attention_out_norm = zeros(weights.attention_out_norm);
  gradients.feed_forward_out_norm = zeros(weights.feed_forward_out_norm);
  gradients.q_norm = zeros(weights.q_norm);
  gradients.k_norm = zeros(weights.k_norm);
  gradients.q_low_norm = zeros(weights.q_low_norm);
  gradients.kv_low_norm = zeros(weights.kv_low_norm);
  gradients.sinks = zeros(weights.sinks);
  gradients.conv = zeros(weights.conv);
  gradients.delta_gates = zeros(weights.delta_gates);
  gradients.log_decay = zeros(weights.log_decay);
  gradients.decay_bias = zeros(weights.decay_bias);
  gradients.delta_norm = zeros(weights.delta_norm);
  gradients.router_bias = zeros(weights.router_bias);
  gradients.router = zeros(weights.router);
  gradients.shared_gate = zeros(weights.shared_gate);
  for (const auto& site : weights.biases) {
    auto& biases = gradients.biases.emplace_back();
    for (const auto& bias : site) biases.push_back(zeros(bias));
  }
  return gradients;
}

void Transformer::backward_block(const BlockWeights& weights, const HiddenStates& input, HiddenStates& gradient,
                                 BlockGradients* gradients, const GradientObserver& observer) {
  impl_->check_hidden(input);
  impl_->check_hidden(gradient);
  VORONOI_REQUIRE(input.n_sequences == gradient.n_sequences && input.n_tokens == gradient.n_tokens,
                  "the gradient has the shape of the hidden states");
  VORONOI_REQUIRE(impl_->dtype != core::DType::f16, "the backward pass takes products in f32 or bf16");
  const Impl::Backward backward{*impl_, weights, gradients, observer};
  const std::int64_t dim = impl_->config.hidden_size;
  core::count_work(core::Counted::backward_tokens, input.n_sequences * input.n_tokens);
  impl_->for_each_batch(weights.layer, input, [&](std::int64_t n_sequences, std::int64_t first) {
    const std::int64_t n_rows = n_sequences * input.n_tokens, n = product(n_rows, dim);
    const float* entered = input.values.data() + first;
    float* rows = gradient.values.data() + first;
    float* middle = Impl::grow(impl_->context, impl_->work_middle, n);
    impl_->context.memory().copy_on_device(impl_->context.exec(), entered, product(n, sizeof(float)), middle);
    impl_->attention_half(weights, n_sequences, input.n_tokens, middle, nullptr, nullptr, &impl_->attention_tape);
    backward.batch(n_sequences, input.n_tokens, entered, middle, impl_->attention_tape, nullptr, rows);
  });
}

void Transformer::backward_block(const BlockWeights& weights, const BlockTape& tape, HiddenStates& gradient,
                                 BlockGradients* gradients, const GradientObserver& observer) {
  impl_->check_hidden(gradient);
  VORONOI_REQUIRE(tape.entered.size() >= gradient.values.size() && tape.middle.size() >= gradient.values.size(),
                  "a tape of hidden states of the gradient's shape");
  const Impl::Backward backward{*impl_, weights, gradients, observer};
  core::count_work(core::Counted::backward_tokens, gradient.n_sequences * gradient.n_tokens);
  std::size_t n_batches = 0, n_slabs = 0;
  impl_->for_each_batch(weights.layer, gradient, [&](std::int64_t n_sequences, std::int64_t first) {
    backward.batch(n_sequences, gradient.n_tokens, tape.entered.data() + first, tape.middle.data() + first,
                   tape.attention.at(n_batches++), &tape.feed_forward.at(n_slabs), gradient.values.data() + first);
    n_slabs += static_cast<std::size_t>(core::ceil_div(n_sequences * gradient.n_tokens, kFeedForwardRows));
  });
}

}  // namespace voronoi::model
