// As kernels/cpu/attention.cpp, by panels of bfloat16: a tile of queries and a block of keys at a time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_bf16.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include <algorithm>

#include "core/types.h"
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/attention_bf16.h"
#include "kernels/cpu/bf16_multiplier.h"
#include "kernels/cpu/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {
namespace {

constexpr std::int64_t kTileQueries = 2 * kBf16Panel, kTaskQueries = 2 * kTileQueries, kTaskPanels = 4;
// Widths of rows of scores: whole steps of products, and what softmax_row takes.
constexpr std::int64_t kWidthStep = std::max(kBf16Depth, kScoreStep);
static_assert(kKeys % kWidthStep == 0 && kWidthStep % kBf16Depth == 0);

/// A head's keys, column panels [key panel][step of head_dim], and values, [panel of head_dim][step of keys].
struct HeadPanels {
  std::int64_t n_keys, key_panels, dim_steps, dim_panels, key_steps;

  explicit HeadPanels(const AttentionShape& shape)
      : n_keys(key_count(shape)),
        key_panels(core::ceil_div(n_keys, kKeys) * kKeys / kBf16Panel),
        dim_steps(core::ceil_div(shape.head_dim, kBf16Depth)),
        dim_panels(core::ceil_div(shape.head_dim, kBf16Panel)),
        key_steps(core::ceil_div(n_keys, kKeys) * kKeys / kBf16Depth) {}
  std::int64_t key_panel() const { return dim_steps * kBf16StepValues; }
  std::int64_t value_panel() const { return key_steps * kBf16StepValues; }
  std::int64_t keys_size() const { return key_panels * key_panel(); }
  std::int64_t size() const { return keys_size() + dim_panels * value_panel(); }

  void pack(const AttentionShape& shape, const float* k, const float* v, std::uint16_t* packed) const {
    std::fill_n(packed, size(), std::uint16_t{0});
    for (std::int64_t key = 0; key < n_keys; key += kBf16Panel)
      pack_bf16_columns({k, nullptr, shape.ld_kv, true}, n_keys, shape.head_dim, key,
                        packed + key / kBf16Panel * key_panel());
    for (std::int64_t panel = 0; panel < dim_panels; ++panel)
      pack_bf16_columns({v, nullptr, shape.ld_kv, false}, shape.head_dim, n_keys, panel * kBf16Panel,
                        packed + keys_size() + panel * value_panel());
  }
};

/// Queries [first, first + kTaskQueries) of one head.
HWY_NOINLINE void attend_bf16(const AttentionShape& shape, const HeadPanels& head, std::int64_t first,
                              const RowState& start, const float* q, const std::uint16_t* packed, float* out,
                              Bf16Unit unit) {
  const std::int64_t n_queries = std::min(kTaskQueries, shape.n_tokens - first), dim = shape.head_dim;
  const std::int64_t window = shape.window > 0 ? shape.window : head.n_keys, position = shape.n_past + first;
  const std::int64_t ld_scores = kKeys / kBf16Panel * kBf16Tile, ld_sums = head.dim_panels * kBf16Tile;
  Scratch<float> scores(2 * ld_scores), rows(kTileQueries * kKeys), sums(kTaskPanels * ld_sums);
  Scratch<std::uint16_t> queries(kTaskPanels * head.key_panel()), numerators(kTileQueries * kKeys);
  std::fill_n(sums.data(), kTaskPanels * ld_sums, 0.0F);
  const std::int64_t query_panels = core::ceil_div(n_queries, kBf16Panel);
  for (std::int64_t panel = 0; panel < query_panels; ++panel)
    pack_bf16_rows({q + first * shape.ld_q, nullptr, shape.ld_q, true}, n_queries, dim, panel * kBf16Panel,
                   queries.data() + panel * head.key_panel());
  RowState state[kTaskQueries];
  std::fill_n(state, kTaskQueries, start);
  Bf16Multiplier multiplier(unit, std::max(head.dim_steps, kKeys / kBf16Depth));
  const std::uint16_t* values = packed + head.keys_size();

  const std::int64_t oldest = std::max<std::int64_t>(0, position - window + 1);
  for (std::int64_t block = oldest / kKeys * kKeys; block < position + n_queries; block += kKeys)
    for (std::int64_t tile = 0; tile < n_queries; tile += kTileQueries) {
      const std::int64_t tile_last = std::min(position + tile + kTileQueries, position + n_queries) - 1;
      const std::int64_t to = std::min(kKeys, tile_last + 1 - block);
      const std::int64_t from = std::max<std::int64_t>(0, position + tile - window + 1 - block);
      if (from >= to) continue;
      const std::int64_t width = core::ceil_div(to, kWidthStep) * kWidthStep, steps = width / kBf16Depth;
      const std::int64_t panels = std::min<std::int64_t>(2, query_panels - tile / kBf16Panel);
      multiplier.multiply({panels, width / kBf16Panel, head.dim_steps,
                           queries.data() + tile / kBf16Panel * head.key_panel(), head.key_panel(),
                           packed + block / kBf16Panel * head.key_panel(), head.key_panel(), scores.data(), ld_scores},
                          true);
      for (std::int64_t i = 0; i < panels * kBf16Panel; ++i) {
        const std::int64_t query = position + tile + i;
        // Rows past the last query are padding: they are masked out altogether.
        const std::int64_t end = query < head.n_keys ? std::clamp<std::int64_t>(query + 1 - block, 0, kKeys) : 0;
        const std::int64_t begin = std::clamp<std::int64_t>(query - window + 1 - block, 0, kKeys);
        const float* from_tiles = scores.data() + i / kBf16Panel * ld_scores + i % kBf16Panel * kBf16Panel;
        float* row = rows.data() + i * kKeys;
        for (std::int64_t c = 0; c < width; c += kBf16Panel, from_tiles += kBf16Tile)
          for (std::int64_t lane = 0; lane < kBf16Panel; ++lane) row[c + lane] = shape.scale * from_tiles[lane];
        if (shape.softcap > 0) cap_row(row, width, shape.softcap);
        const float correction = softmax_row(row, width, begin, end, state[tile + i]);
        if (correction != 1.0F) {
          float* sum = sums.data() + (tile + i) / kBf16Panel * ld_sums + i % kBf16Panel * kBf16Panel;
          for (std::int64_t panel = 0; panel < head.dim_panels; ++panel, sum += kBf16Tile)
            for (std::int64_t lane = 0; lane < kBf16Panel; ++lane) sum[lane] *= correction;
        }
      }
      for (std::int64_t panel = 0; panel < panels; ++panel)
        pack_bf16_rows({rows.data(), nullptr, kKeys, true}, kTileQueries, width, panel * kBf16Panel,
                       numerators.data() + panel * steps * kBf16StepValues);
      multiplier.multiply({panels, head.dim_panels, steps, numerators.data(), steps * kBf16StepValues,
                           values + block / kBf16Depth * kBf16StepValues, head.value_panel(),
                           sums.data() + tile / kBf16Panel * ld_sums, ld_sums},
                          false);
    }
  for (std::int64_t i = 0; i < n_queries; ++i) {
    const float inverse = 1.0F / state[i].sum;
    const float* sum = sums.data() + i / kBf16Panel * ld_sums + i % kBf16Panel * kBf16Panel;
    for (std::int64_t c = 0; c < dim; ++c)
      out[(first + i) * shape.ld_out + c] = sum[c / kBf16Panel * kBf16Tile + c % kBf16Panel] * inverse;
  }
}

void bf16_attention(const Exec& exec, const AttentionShape& shape, const float* q, const float* k, const float* v,
                    float* out, Bf16Unit unit) {
  if (shape.n_sequences == 0 || shape.n_tokens == 0) return;
  const HeadPanels head(shape);
  const std::int64_t n_packed = shape.n_sequences * shape.n_kv_heads, group = shape.n_heads / shape.n_kv_heads;
  Scratch<std::uint16_t> packed(n_packed * head.size());
  exec.pool->parallel_for(n_packed, [&](std::int64_t i) {
    const std::int64_t offset =
        i / shape.n_kv_heads * head.n_keys * shape.ld_kv + i % shape.n_kv_heads * shape.head_dim;
    head.pack(shape, k + offset, v + offset, packed.data() + i * head.size());
  });
  const std::int64_t blocks = core::ceil_div(shape.n_tokens, kTaskQueries), n_heads = shape.n_sequences * shape.n_heads;
  // Late queries see the most keys: they come first, so that no thread is left with a long one at the end.
  exec.pool->parallel_for(blocks * n_heads, [&](std::int64_t task) {
    const std::int64_t block = blocks - 1 - task / n_heads, sequence = task % n_heads / shape.n_heads,
                       of = task % shape.n_heads;
    const RowState start = shape.sinks == nullptr ? RowState{} : RowState{shape.sinks[of], 1};
    attend_bf16(shape, head, block * kTaskQueries, start,
                q + sequence * shape.n_tokens * shape.ld_q + of * shape.head_dim,
                packed.data() + (sequence * shape.n_kv_heads + of / group) * head.size(),
                out + sequence * shape.n_tokens * shape.ld_out + of * shape.head_dim, unit);
  });
}

}  // namespace
}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {

HWY_EXPORT(bf16_attention);

void cpu_bf16_attention(const Exec& exec, const AttentionShape& shape, const float* q, const float* k, const float* v,
                        float* out, Bf16Unit unit) {
  HWY_DYNAMIC_DISPATCH(bf16_attention)(exec, shape, q, k, v, out, unit);
}

}  // namespace voronoi::kernels
#endif
