// Causal attention by blocks of keys with a running maximum and sum (online softmax): Milakov and Gimelshein 2018, Dao
// et al. 2022. Keys and values of a head are packed once; then each block of queries walks the blocks of keys it may
// see.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include <algorithm>
#include <limits>

#include "core/types.h"
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/attention_bf16.h"
#include "kernels/cpu/scratch.h"
#include "kernels/kernels.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {
namespace {

constexpr std::int64_t kQueries = kMicroRows * (56 / kMicroRows);

/// A head's keys, packed for their transpose, and values.
std::int64_t head_size(const Layout& layout) { return layout.transposed_size() + layout.blocks_size(); }

/// Queries [first, first + kQueries) of one head against the packed keys and values. start: what a row has seen before
/// its first key.
HWY_NOINLINE void attend(const AttentionShape& shape, const Layout& layout, std::int64_t first, const RowState& start,
                         const float* q, const float* packed, float* out) {
  const FloatTag d;
  const std::int64_t n_queries = std::min(kQueries, shape.n_tokens - first), n_keys = key_count(shape);
  const std::int64_t window = shape.window > 0 ? shape.window : n_keys, position = shape.n_past + first;
  Scratch<float> memory(query_rows_size(shape.head_dim, kQueries) + kQueries * (kRowLd + layout.dim));
  float* scores = memory.data();
  float* sums = scores + kQueries * kRowLd;
  float* queries = sums + kQueries * layout.dim;
  std::fill_n(sums, kQueries * layout.dim, 0.0F);
  pack_query_rows(n_queries, kQueries, shape.head_dim, shape.scale, q + first * shape.ld_q, shape.ld_q, queries);
  RowState state[kQueries];
  std::fill_n(state, kQueries, start);
  const float* values = packed + layout.transposed_size();

  const std::int64_t oldest = std::max<std::int64_t>(0, position - window + 1);
  for (std::int64_t block = oldest / kKeys * kKeys; block < position + n_queries; block += kKeys) {
    for (std::int64_t tile = 0; tile < n_queries; tile += kMicroRows) {
      // Of the block, the tile's rows see keys [from, to); whole panels and lanes around it are computed.
      const std::int64_t tile_last = std::min(position + tile + kMicroRows, position + n_queries) - 1;
      const std::int64_t to = std::min(kKeys, tile_last + 1 - block);
      const std::int64_t from = std::max<std::int64_t>(0, position + tile - window + 1 - block);
      if (from >= to) continue;
      const std::int64_t width = core::ceil_div(to, kScoreStep) * kScoreStep;
      float* scores_here = scores + tile * kRowLd;
      tile_scores(0, width, shape.head_dim, queries, kQueries, tile, packed + block * shape.head_dim, scores_here);
      for (std::int64_t i = 0; i < kMicroRows; ++i) {
        const std::int64_t query = position + tile + i;
        // Rows past the last query are padding: they are masked out altogether.
        const std::int64_t end = query < n_keys ? std::min(kKeys, query + 1 - block) : 0;
        const std::int64_t begin = std::clamp<std::int64_t>(query - window + 1 - block, 0, kKeys);
        if (shape.softcap > 0) cap_row(scores_here + i * kRowLd, width, shape.softcap);
        const float correction =
            softmax_row(scores_here + i * kRowLd, width, begin, std::max<std::int64_t>(0, end), state[tile + i]);
        if (correction != 1.0F) {
          float* row = sums + (tile + i) * layout.dim;
          for (std::int64_t c = 0; c < layout.dim; c += kWidth)
            hn::Store(hn::Mul(hn::Load(d, row + c), hn::Set(d, correction)), d, row + c);
        }
      }
      for (std::int64_t column = 0; column < layout.dim; column += kPanel)
        micro_tile<float, false>(to, scores_here, values + block * layout.dim + column * kKeys,
                                 sums + tile * layout.dim + column, layout.dim, {1.0F, 1.0F});
    }
  }
  for (std::int64_t i = 0; i < n_queries; ++i) {
    const float inverse = 1.0F / state[i].sum;
    for (std::int64_t c = 0; c < shape.head_dim; ++c)
      out[(first + i) * shape.ld_out + c] = sums[i * layout.dim + c] * inverse;
  }
}

void attention(const Exec& exec, const AttentionShape& shape, const float* q, const float* k, const float* v,
               float* out) {
  if (shape.n_sequences == 0 || shape.n_tokens == 0) return;
  const Layout layout(shape);
  const std::int64_t n_packed = shape.n_sequences * shape.n_kv_heads, group = shape.n_heads / shape.n_kv_heads;
  Scratch<float> packed(n_packed * head_size(layout));
  exec.pool->parallel_for(n_packed, [&](std::int64_t i) {
    const std::int64_t offset =
        i / shape.n_kv_heads * key_count(shape) * shape.ld_kv + i % shape.n_kv_heads * shape.head_dim;
    float* head = packed.data() + i * head_size(layout);
    pack_transposed(shape, layout, k + offset, head);
    pack_blocks(shape, layout, v + offset, head + layout.transposed_size());
  });
  const std::int64_t blocks = core::ceil_div(shape.n_tokens, kQueries), n_heads = shape.n_sequences * shape.n_heads;
  // Late queries see the most keys: they come first, so that no thread is left with a long one at the end.
  exec.pool->parallel_for(blocks * n_heads, [&](std::int64_t task) {
    const std::int64_t block = blocks - 1 - task / n_heads, sequence = task % n_heads / shape.n_heads,
                       head = task % shape.n_heads;
    const RowState start = shape.sinks == nullptr ? RowState{} : RowState{shape.sinks[head], 1};
    attend(shape, layout, block * kQueries, start, q + sequence * shape.n_tokens * shape.ld_q + head * shape.head_dim,
           packed.data() + (sequence * shape.n_kv_heads + head / group) * head_size(layout),
           out + sequence * shape.n_tokens * shape.ld_out + head * shape.head_dim);
  });
}

}  // namespace
}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {

HWY_EXPORT(attention);

namespace {

/// [n_rows, n_columns] contiguous, each value rounded to `dtype`.
Scratch<float> rounded(const Exec& exec, core::DType dtype, std::int64_t n_rows, std::int64_t n_columns, const float* x,
                       std::int64_t ldx) {
  Scratch<float> copy(n_rows * n_columns);
  exec.pool->parallel_for(n_rows, [&](std::int64_t row) {
    std::transform(x + row * ldx, x + row * ldx + n_columns, copy.data() + row * n_columns,
                   [dtype](float value) { return core::round_to(dtype, value); });
  });
  return copy;
}

}  // namespace

void cpu_attention(const Exec& exec, const AttentionShape& shape, const float* q, const float* k, const float* v,
                   float* out) {
  VORONOI_REQUIRE(shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0,
                  "query heads must be a multiple of key heads");
  if (shape.compute == core::DType::f32) return HWY_DYNAMIC_DISPATCH(attention)(exec, shape, q, k, v, out);
  if (shape.compute == core::DType::bf16) return cpu_bf16_attention(exec, shape, q, k, v, out);
  const std::int64_t n_rows = shape.n_sequences * shape.n_tokens,
                     n_keys = shape.n_sequences * (shape.n_past + shape.n_tokens);
  AttentionShape packed = shape;
  packed.ld_q = shape.n_heads * shape.head_dim;
  packed.ld_kv = shape.n_kv_heads * shape.head_dim;
  const Scratch<float> queries = rounded(exec, shape.compute, n_rows, packed.ld_q, q, shape.ld_q),
                       keys = rounded(exec, shape.compute, n_keys, packed.ld_kv, k, shape.ld_kv),
                       values = rounded(exec, shape.compute, n_keys, packed.ld_kv, v, shape.ld_kv);
  HWY_DYNAMIC_DISPATCH(attention)(exec, packed, queries.data(), keys.data(), values.data(), out);
}

}  // namespace voronoi::kernels
#endif
