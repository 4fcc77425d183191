// The delta rule in the place of attention (see DeltaConfig).
#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "core/work_counts.h"
#include "model/transformer_impl.h"

namespace voronoi::model {
namespace {

using backend::Array;

/// What is added to the sum of a key's squares.
constexpr double kKeyEps = 1e-6;
/// Values of states at work at a time, or those of one sequence.
constexpr std::int64_t kStateFloats = 16 << 20;

/// A state: that behind so many positions of a segment's sequence, of which the segment has the last. First -1: before
/// any.
using StatePlace = std::pair<std::int64_t, std::int64_t>;

StatePlace place_before(std::span<const Segment> segments, std::int64_t segment) {
  const std::int64_t n_past = segments[static_cast<std::size_t>(segment)].n_past;
  if (n_past == 0) return {-1, 0};
  std::int64_t at = segments[static_cast<std::size_t>(segment)].parent;
  while (segments[static_cast<std::size_t>(at)].n_past >= n_past) at = segments[static_cast<std::size_t>(at)].parent;
  return {at, n_past};
}

}  // namespace

const float* Transformer::Impl::key_norm() {
  if (key_norms.empty()) {
    const std::vector<float> values(static_cast<std::size_t>(config.delta.key_dim),
                                    static_cast<float>(1 / std::sqrt(static_cast<double>(config.delta.key_dim))));
    key_norms = Array<float>(context, std::span<const float>(values));
  }
  return key_norms.data();
}

kernels::ConvShape Transformer::Impl::conv_shape(std::int64_t n_sequences, std::int64_t n_tokens) const {
  return {n_sequences, n_tokens, config.delta.channels(), config.delta.width};
}

kernels::DeltaShape Transformer::Impl::delta_shape(std::int64_t n_sequences, std::int64_t n_tokens) const {
  const DeltaConfig& delta = config.delta;
  return {n_sequences,     n_tokens,          n_tokens,
          delta.key_heads, delta.value_heads, delta.key_dim,
          delta.value_dim, delta.channels(),  static_cast<float>(1 / std::sqrt(static_cast<double>(delta.key_dim)))};
}

DeltaRows Transformer::Impl::delta_project(const BlockWeights& weights, std::int64_t n_rows, const float* hidden,
                                           float* normed, const SiteObserver& observer, AttentionTape* tape) {
  const DeltaConfig& delta = config.delta;
  const auto& exec = context.exec();
  const std::int64_t keys = delta.keys(), values = delta.values(), channels = delta.channels(),
                     joined = channels + values, heads = delta.value_heads, dim = config.hidden_size;
  // What the input projection gives is of no use once it is taken apart: what is convolved and what leaves the rule
  // take its place.
  float* work = grow(context, work_delta,
                     product(n_rows + 1, joined + 2 * keys + 2 * heads + (tape == nullptr ? joined + 2 * heads : 0)));
  DeltaRows rows{};
  float* low = nullptr;
  rows.n_rows = n_rows;
  rows.convolved = work;
  rows.attended = work + n_rows * channels;
  rows.q = work + n_rows * joined;
  rows.k = rows.q + n_rows * keys;
  rows.rates = rows.k + n_rows * keys;
  if (tape == nullptr) {
    rows.gate = rows.rates + n_rows * 2 * heads;
    low = rows.gate + n_rows * values;
    rows.mixed = low + n_rows * 2 * heads;
    context.memory().zero(exec, product(channels, sizeof(float)), rows.mixed + n_rows * channels);
  } else {
    rows.gate = grow(context, tape->gate, product(n_rows, values));
    low = grow(context, tape->low, product(n_rows, 2 * heads));
    rows.mixed = grow(context, tape->qkv, product(n_rows, channels));
    rows.attended = grow(context, tape->attended, product(n_rows, values));
  }
  const float* x = half_input(n_rows, hidden, weights.input_norm, normed);
  if (observer) observer(block(weights)[places.qkv], places.qkv, x, n_rows, {});
  linear(weights, places.qkv, 0, n_rows, x, false, work);
  core::count_product(n_rows, 2 * heads, dim);
  context.linalg().gemm_f32(exec, false, true, n_rows, 2 * heads, dim, 1.0F, x, dim, weights.delta_gates.data(), dim,
                            0.0F, low, 2 * heads);
  rows.low = low;
  for_each_delta_part(delta, [&](std::int64_t width, std::int64_t from, std::int64_t to) {
    const bool gate = to < 0;
    context.nn().copy_heads(
        exec, {n_rows, delta.key_heads, width, joined, joined / delta.key_heads, gate ? values : channels, width},
        work + from, gate ? rows.gate : rows.mixed + to);
  });
  return rows;
}

void Transformer::Impl::delta_prepare(const BlockWeights& weights, const DeltaRows& rows) {
  const DeltaConfig& delta = config.delta;
  const auto& exec = context.exec();
  const std::int64_t keys = delta.keys(), dim = delta.key_dim, n_heads = rows.n_rows * delta.key_heads;
  // Of the rule itself: each value of a state is scaled, read by the key, written and read by the query.
  core::count_work(core::Counted::gemm_flops, 7 * rows.n_rows * delta.values() * delta.key_dim);
  float* part = rows.convolved;
  for (float* to : {rows.q, rows.k}) {
    context.nn().copy_heads(exec, {rows.n_rows, 1, keys, delta.channels(), 0, keys, 0}, part, to);
    context.nn().rms_norm(exec, n_heads, dim, to, dim, key_norm(), key_eps(), to, dim);
    part += keys;
  }
  context.delta_rule().gates(exec, rows.n_rows, delta.key_heads, delta.value_heads, rows.low, weights.log_decay.data(),
                             weights.decay_bias.data(), rows.rates);
}

float Transformer::Impl::key_eps() const {
  return static_cast<float>(kKeyEps / static_cast<double>(config.delta.key_dim));
}

void Transformer::Impl::delta_finish(const BlockWeights& weights, const DeltaRows& rows, float* hidden, float* normed,
                                     const SiteObserver& observer, AttentionTape* tape) {
  const DeltaConfig& delta = config.delta;
  const std::int64_t dim = delta.value_dim, n = product(rows.n_rows, delta.values());
  context.nn().rms_norm(context.exec(), rows.n_rows * delta.value_heads, dim, rows.attended, dim,
                        weights.delta_norm.data(), static_cast<float>(config.norm_eps), normed, dim);
  float* left = rows.convolved;  // of no more use
  context.nn().swiglu(context.exec(), n, rows.gate, normed, left);
  if (observer) observer(block(weights)[places.o], places.o, left, rows.n_rows, {});
  add_output(weights, places.o, rows.n_rows, left, weights.attention_out_norm, hidden,
             tape == nullptr ? nullptr : &tape->out);
}

void Transformer::Impl::delta_half(const BlockWeights& weights, std::int64_t n_sequences, std::int64_t n_tokens,
                                   float* hidden, const SiteObserver& observer, KvCache* cache, AttentionTape* tape) {
  const DeltaConfig& delta = config.delta;
  const auto& exec = context.exec();
  const std::int64_t n_rows = n_sequences * n_tokens, channels = delta.channels(), before = delta.width - 1;
  float* normed = grow(context, work_normed, product(n_rows, std::max(config.hidden_size, delta.values())));
  const DeltaRows rows = delta_project(weights, n_rows, hidden, normed, observer, tape);
  const bool continues = cache != nullptr && cache->n_tokens > 0;
  const auto layer = static_cast<std::size_t>(weights.layer);
  Array<float>* last = cache == nullptr ? nullptr : &cache->keys[layer];
  float* state = cache == nullptr ? nullptr : cache->values[layer].data();
  context.delta_rule().conv(exec, conv_shape(n_sequences, n_tokens), rows.mixed, continues ? last->data() : nullptr,
                            weights.conv.data(), rows.convolved);
  delta_prepare(weights, rows);
  context.delta_rule().rule(exec, delta_shape(n_sequences, n_tokens), rows.q, rows.k, rows.convolved + 2 * delta.keys(),
                            rows.rates, continues ? state : nullptr, rows.attended, state);
  if (cache != nullptr && before > 0) {
    // The last of those before and these.
    Array<float> now(context, before * channels);
    const std::int64_t own = std::min(before, n_tokens), old = before - own;
    if (continues)
      context.memory().copy_on_device(exec, last->data() + own * channels, old * channels * std::int64_t{sizeof(float)},
                                      now.data());
    else
      now.zero();
    context.memory().copy_on_device(exec, rows.mixed + (n_tokens - own) * channels,
                                    own * channels * std::int64_t{sizeof(float)}, now.data() + old * channels);
    *last = std::move(now);
  }
  delta_finish(weights, rows, hidden, normed, observer, tape);
}

void Transformer::Impl::ragged_delta_half(const BlockWeights& weights, RaggedStates& states) {
  const DeltaConfig& delta = config.delta;
  const kernels::DeltaRuleKernels& kernels = context.delta_rule();
  const auto& exec = context.exec();
  const std::span<const Segment> segments = states.segments;
  const std::int64_t n_rows = states.values.size() / config.hidden_size, channels = delta.channels(),
                     before = delta.width - 1, state_size = product(delta.values(), delta.key_dim);
  const std::vector<std::int64_t> first_row = first_rows(segments);
  float* normed = grow(context, work_normed, product(n_rows, std::max(config.hidden_size, delta.values())));
  const DeltaRows rows = delta_project(weights, n_rows, states.values.data(), normed, nullptr, nullptr);
  const auto copy_state = [&](const float* from, float* to) {
    context.memory().copy_on_device(exec, from, product(state_size, sizeof(float)), to);
  };

  // Of each segment the places behind which others continue.
  std::map<StatePlace, Array<float>> kept;
  std::vector<StatePlace> begins;
  for (std::int64_t s = 0; s < std::ssize(segments); ++s) {
    begins.push_back(place_before(segments, s));
    if (begins.back().first >= 0) kept.try_emplace(begins.back());
  }

  // What is convolved of all first: q, k and v of all rows are made of it at once.
  std::int64_t segment = 0;
  for (const RaggedStates::Group& group : states.groups) {
    Array<float> past;
    if (group.n_past > 0 && before > 0) {
      std::vector<std::int32_t> from;
      for (std::int64_t s = segment; s < segment + group.n_segments; ++s) {
        const std::int64_t n = std::min(before, group.n_past);
        from.insert(from.end(), static_cast<std::size_t>(before - n), static_cast<std::int32_t>(n_rows));  // zeros
        const std::vector<std::int32_t> own = rows_of_positions(segments, first_row, s, group.n_past - n, group.n_past);
        from.insert(from.end(), own.begin(), own.end());
      }
      const Array<std::int32_t> index(context, std::span<const std::int32_t>(from));
      past = Array<float>(context, product(index.size(), channels));
      context.linalg().gather_rows_f32(exec, index.data(), index.size(), channels, rows.mixed, past.data());
    }
    kernels.conv(exec, conv_shape(group.n_segments, group.n_tokens), rows.mixed + group.first_row * channels,
                 past.empty() ? nullptr : past.data(), weights.conv.data(),
                 rows.convolved + group.first_row * channels);
    segment += group.n_segments;
  }
  delta_prepare(weights, rows);

  segment = 0;
  for (const RaggedStates::Group& group : states.groups) {
    const std::int64_t at_once = std::max<std::int64_t>(1, kStateFloats / state_size);
    for (std::int64_t first = 0; first < group.n_segments; first += at_once) {
      const std::int64_t n = std::min(at_once, group.n_segments - first), own = segment + first,
                         row = group.first_row + first * group.n_tokens;
      Array<float> state(context, product(n, state_size));
      if (group.n_past == 0) state.zero();
      std::set<std::int64_t> cuts{group.n_tokens};  // tokens of these segments behind which a state is looked at
      for (std::int64_t s = 0; s < n; ++s) {
        const StatePlace& begin = begins[static_cast<std::size_t>(own + s)];
        if (begin.first >= 0) copy_state(kept.at(begin).data(), state.data() + s * state_size);
        for (auto at = kept.lower_bound({own + s, 0}); at != kept.end() && at->first.first == own + s; ++at)
          cuts.insert(at->first.second - group.n_past);
      }
      std::int64_t done = 0;
      for (const std::int64_t cut : cuts) {
        kernels::DeltaShape shape = delta_shape(n, cut - done);
        shape.rows_apart = group.n_tokens;
        const std::int64_t at = row + done;
        kernels.rule(exec, shape, rows.q + at * delta.keys(), rows.k + at * delta.keys(),
                     rows.convolved + at * channels + 2 * delta.keys(), rows.rates + at * 2 * delta.value_heads,
                     state.data(), rows.attended + at * delta.values(), state.data());
        done = cut;
        for (std::int64_t s = 0; s < n; ++s)
          if (const auto wanted = kept.find({own + s, group.n_past + cut}); wanted != kept.end()) {
            wanted->second = Array<float>(context, state_size);
            copy_state(state.data() + s * state_size, wanted->second.data());
          }
      }
    }
    segment += group.n_segments;
  }
  delta_finish(weights, rows, states.values.data(), normed, nullptr, nullptr);
}

}  // namespace voronoi::model
