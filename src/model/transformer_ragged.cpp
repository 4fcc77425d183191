// The forward pass of packed sequences of any lengths, what they begin with in common computed once.
#include <algorithm>
#include <limits>
#include <utility>

#include "core/work_counts.h"
#include "model/transformer_impl.h"

namespace voronoi::model {
namespace {

using backend::Array;

/// Keys that a group's attention is given at a time, or those of one segment.
constexpr std::int64_t kGroupKeys = 4096;

}  // namespace

std::vector<std::int64_t> first_rows(std::span<const Segment> segments) {
  std::vector<std::int64_t> first{0};
  for (const Segment& segment : segments) first.push_back(first.back() + segment.n_tokens);
  return first;
}

std::vector<std::int32_t> rows_of_positions(std::span<const Segment> segments, std::span<const std::int64_t> first_row,
                                            std::int64_t segment, std::int64_t first, std::int64_t last) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(last - first));
  // Down the sequence: of each segment what lies before the one that continues it.
  while (last > first) {
    const auto at = static_cast<std::size_t>(segment);
    for (std::int64_t p = std::max(first, segments[at].n_past); p < last; ++p)
      rows[static_cast<std::size_t>(p - first)] = static_cast<std::int32_t>(first_row[at] + p - segments[at].n_past);
    last = std::min(last, segments[at].n_past);
    segment = segments[at].parent;
  }
  return rows;
}

RaggedStates Transformer::embed(std::span<const std::int32_t> ids, std::vector<Segment> segments) {
  const ModelConfig& config = impl_->config;
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const Segment& segment = segments[s];
    VORONOI_REQUIRE(segment.n_tokens > 0 && segment.parent < static_cast<std::int64_t>(s) && segment.parent >= -1 &&
                        segment.n_past >= 0,
                    "a segment has tokens and continues one before it");
    if (segment.parent < 0) {
      VORONOI_REQUIRE(segment.n_past == 0, "nothing lies before the beginning of a sequence");
    } else {
      const Segment& parent = segments[static_cast<std::size_t>(segment.parent)];
      VORONOI_REQUIRE(segment.n_past <= parent.n_past + parent.n_tokens, "a segment continues what its parent has");
    }
  }
  const std::vector<std::int64_t> first_row = first_rows(segments);
  VORONOI_REQUIRE(
      static_cast<std::int64_t>(ids.size()) == first_row.back() &&
          product(first_row.back(), config.n_heads / config.n_kv_heads + 2) <= std::numeric_limits<std::int32_t>::max(),
      "ids are those of the segments, their rows counted in 32 bits");
  RaggedStates states{std::move(segments), impl_->embed(ids), {}};

  // A row of a fused product holds `group` times the width of k, then k, then v.
  const std::int64_t group_size = config.n_heads / config.n_kv_heads;
  const std::int64_t pieces = config.fused_qkv ? group_size + 2 : 1;
  for (std::size_t begin = 0, end = 0; begin < states.segments.size(); begin = end) {
    const Segment& first = states.segments[begin];
    const std::int64_t n_keys = first.n_past + first.n_tokens;
    std::vector<std::int32_t> rows;
    for (end = begin; end < states.segments.size(); ++end) {
      const Segment& next = states.segments[end];
      const auto count = static_cast<std::int64_t>(end - begin);
      if (next.n_tokens != first.n_tokens || next.n_past != first.n_past ||
          (count > 0 && (count + 1) * n_keys > kGroupKeys))
        break;
      if (first.n_past == 0) continue;
      const std::vector<std::int32_t> own =
          rows_of_positions(states.segments, first_row, static_cast<std::int64_t>(end), 0, n_keys);
      rows.insert(rows.end(), own.begin(), own.end());
    }
    RaggedStates::Group group{.first_row = first_row[begin],
                              .n_segments = static_cast<std::int64_t>(end - begin),
                              .n_tokens = first.n_tokens,
                              .n_past = first.n_past,
                              .keys = {},
                              .values = {}};
    const auto places = [&](std::int64_t piece) {
      std::vector<std::int32_t> at(rows.size());
      std::transform(rows.begin(), rows.end(), at.begin(),
                     [&](std::int32_t row) { return static_cast<std::int32_t>(row * pieces + piece); });
      return Array<std::int32_t>(impl_->context, std::span<const std::int32_t>(at));
    };
    if (!rows.empty()) {
      group.keys = places(config.fused_qkv ? group_size : 0);
      group.values = places(config.fused_qkv ? group_size + 1 : 0);
    }
    states.groups.push_back(std::move(group));
  }
  return states;
}

void Transformer::Impl::ragged_attention_half(const BlockWeights& weights, RaggedStates& states) {
  if (is_delta(config, weights.layer)) return ragged_delta_half(weights, states);
  const auto& exec = context.exec();
  const std::int64_t n_rows = states.values.size() / config.hidden_size;
  const std::int64_t q_dim = config.n_heads * config.head_dim, kv_dim = config.n_kv_heads * config.head_dim;
  float* normed = grow(context, work_normed, product(n_rows, std::max(config.hidden_size, q_dim)));
  float* q = grow(context, work_wide, product(n_rows, q_dim + 2 * kv_dim));
  const AttentionParts parts = attention_parts(n_rows);
  float* k = q + parts.k;
  float* v = q + parts.v;
  project(weights, n_rows, states.values.data(), normed, {q, k, v}, nullptr, nullptr);

  std::int64_t n_positions = 0, n_gathered = 0;
  for (const RaggedStates::Group& group : states.groups) {
    n_positions = std::max(n_positions, group.n_past + group.n_tokens);
    n_gathered = std::max(n_gathered, group.keys.size());
  }
  const kernels::NnKernels& nn = context.nn();
  // Keys of all first: those of a group are read by later ones.
  for (const RaggedStates::Group& group : states.groups) {
    const Turn turning = turn_of(weights.layer, n_positions, group.n_past + group.n_tokens);
    const std::int64_t rows = group.n_segments * group.n_tokens;
    turn(nn.rope, turning, rows, group.n_tokens, group.n_past, config.n_heads, q + group.first_row * parts.ld_q,
         parts.ld_q);
    if (turning.keys)
      turn(nn.rope, turning, rows, group.n_tokens, group.n_past, config.n_kv_heads, k + group.first_row * parts.ld_kv,
           parts.ld_kv);
  }
  float* keys = grow(context, work_split, product(n_gathered, kv_dim));
  float* values = grow(context, work_expert, product(n_gathered, kv_dim));
  for (const RaggedStates::Group& group : states.groups) {
    kernels::AttentionShape shape = attention_shape(weights, group.n_segments, group.n_tokens);
    const float* group_k = k + group.first_row * parts.ld_kv;
    const float* group_v = v + group.first_row * parts.ld_kv;
    if (group.n_past > 0) {
      const float* product_k = config.fused_qkv ? q : k;
      const float* product_v = config.fused_qkv ? q : v;
      context.linalg().gather_rows_f32(exec, group.keys.data(), group.keys.size(), kv_dim, product_k, keys);
      context.linalg().gather_rows_f32(exec, group.values.data(), group.values.size(), kv_dim, product_v, values);
      shape.n_past = group.n_past;
      shape.ld_kv = kv_dim;
      group_k = keys;
      group_v = values;
    }
    for_each_chunk(shape, chunk_of(weights),
                   [&](const kernels::AttentionShape& piece, std::int64_t row, std::int64_t key) {
                     core::count_work(core::Counted::gemm_flops, piece_flops(piece));
                     nn.attention(exec, piece, q + (group.first_row + row) * parts.ld_q, group_k + key * shape.ld_kv,
                                  group_v + key * shape.ld_kv, normed + (group.first_row + row) * shape.ld_out);
                   });
  }
  add_output(weights, places.o, n_rows, attention_values(n_rows, normed, work_gate.data()), weights.attention_out_norm,
             states.values.data());
}

void Transformer::run_block(const BlockWeights& weights, RaggedStates& states) {
  core::count_work(core::Counted::forward_tokens, states.values.size() / impl_->config.hidden_size);
  if (states.values.empty()) return;
  in_block(weights.layer, [&] {
    impl_->ragged_attention_half(weights, states);
    const std::int64_t dim = impl_->config.hidden_size, n_rows = states.values.size() / dim;
    for (std::int64_t r = 0; r < n_rows; r += kFeedForwardRows)
      impl_->feed_forward_half(weights, std::min(kFeedForwardRows, n_rows - r), states.values.data() + r * dim, nullptr,
                               r);
  });
}

std::vector<TokenScore> Transformer::score(const RaggedStates& states, std::span<const std::int32_t> rows,
                                           std::span<const std::int32_t> targets) {
  VORONOI_REQUIRE(rows.size() == targets.size(), "a target a row");
  impl_->check_ids(targets);
  const std::int64_t n_rows = states.values.size() / impl_->config.hidden_size, vocab = impl_->config.vocab_size;
  for (const std::int32_t row : rows) VORONOI_REQUIRE(row >= 0 && row < n_rows, "no such row of the hidden states");
  backend::Context& context = impl_->context;
  std::vector<TokenScore> scores(rows.size());
  const auto slab = static_cast<std::int64_t>(std::min(impl_->slab_rows(), rows.size()));
  Array<double> nll(context, slab);
  Array<std::int32_t> largest(context, slab);
  impl_->for_each_slab(rows.size(), rows.size(), [&](std::size_t first, std::size_t n) {
    const auto count = static_cast<std::int64_t>(n);
    const float* logits = impl_->slab_logits(states.values, rows.subspan(first, n), impl_->work_wide);
    const Array<std::int32_t> target(context, targets.subspan(first, n));
    context.nn().nll(context.exec(), count, vocab, logits, vocab, target.data(), nll.data());
    context.nn().argmax(context.exec(), count, vocab, logits, vocab, largest.data());
    const std::vector<double> values = nll.to_host();
    const std::vector<std::int32_t> greedy = largest.to_host();
    for (std::size_t i = 0; i < n; ++i) scores[first + i] = {-values[i], greedy[i] == targets[first + i]};
  });
  return scores;
}

}  // namespace voronoi::model
