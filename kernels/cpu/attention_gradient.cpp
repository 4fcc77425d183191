// Gradient of causal attention. With P the softmax of the scores S, O = P V, and dO the gradient of O (Dao et al. 2022,
// appendix B):  dV = P^T dO,  dS = P o (dO V^T - rowsum(dO o O)),  dQ = scale dS K,  dK = scale dS^T Q,  a soft cap's
// slope being a factor on dS. A tile of queries has all its scores at a time, hence no second pass for their sum; tiles
// of a chunk of queries add to the chunk's own dK and dV, transposed, and the chunks are added in their order at last.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_gradient.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include <algorithm>
#include <vector>

#include "core/types.h"
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/scratch.h"
#include "kernels/kernels.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {
namespace {

// Queries a tile and tiles a chunk decide where sums over queries are cut: the same for every vector width.
constexpr std::int64_t kQueries = 56;
constexpr std::int64_t kChunkTiles = 5, kMaxChunks = 8;
constexpr std::int64_t kQueryRows = core::ceil_div(kQueries, std::int64_t{kMicroRows}) * kMicroRows;

/// A chunk's queries [first, last), and the blocks of keys they see.
struct Chunk {
  std::int64_t first, last, first_block, last_block;
  std::int64_t sums;  ///< where its sums begin, in blocks
};

/// How work and memory are cut.
struct Plan {
  Layout layout;
  std::int64_t rows;  ///< components of a head, rounded up to whole register tiles
  std::int64_t group;
  std::vector<Chunk> chunks;
  std::int64_t n_sum_blocks = 0;  ///< of all chunks

  explicit Plan(const AttentionShape& shape)
      : layout(shape),
        rows(core::ceil_div(shape.head_dim, std::int64_t{kMicroRows}) * kMicroRows),
        group(shape.n_heads / shape.n_kv_heads) {
    const std::int64_t tiles = core::ceil_div(shape.n_tokens, kQueries);
    const std::int64_t step = std::max(kChunkTiles, core::ceil_div(tiles, kMaxChunks)) * kQueries;
    for (std::int64_t first = 0; first < shape.n_tokens; first += step) {
      const std::int64_t last = std::min(shape.n_tokens, first + step), oldest = oldest_key(shape, first);
      chunks.push_back({first, last, oldest / kKeys, core::ceil_div(last, kKeys), n_sum_blocks});
      n_sum_blocks += chunks.back().last_block - chunks.back().first_block;
    }
  }

  static std::int64_t oldest_key(const AttentionShape& shape, std::int64_t query) {
    return shape.window > 0 ? std::max<std::int64_t>(0, query - shape.window + 1) : 0;
  }
  /// Keys and values for their transpose, then keys.
  std::int64_t head_size() const { return 2 * layout.transposed_size() + layout.blocks_size(); }
  /// dK^T, then dV^T of a block of keys: each [rows, kRowLd].
  std::int64_t sum_size() const { return 2 * rows * kRowLd; }
};

/// One head's rows, from its sequence's first.
struct Head {
  const float *q, *out, *d_out;
  float* dq;
  const float* packed;  ///< of its keys and values
  const float* sink;    ///< null: none
  float* d_sink;        ///< n_heads between rows
};

/// Work memory of one task: what a tile of queries needs.
class Tile {
 public:
  Tile(const AttentionShape& shape, const Plan& plan)
      : shape_(shape),
        plan_(plan),
        n_blocks_(core::ceil_div(shape.n_tokens, kKeys)),
        rows_size_(query_rows_size(shape.head_dim, kQueryRows)),
        strip_(n_blocks_ * kQueryRows * kRowLd),
        slopes_(shape.softcap > 0 ? n_blocks_ * kQueryRows * kRowLd : 0),
        queries_(rows_size_),
        d_outs_(rows_size_),
        queries_across_(plan.rows * kQueries),
        d_outs_across_(plan.rows * kQueries),
        d_scores_(kQueryRows * kRowLd),
        d_score_panels_(kKeys * kQueries),
        share_panels_(kKeys * kQueries),
        dq_(kQueryRows * plan.layout.dim) {
    // Beyond what a tile's rows see old values are read, and count as nothing: they must be numbers.
    std::fill_n(d_scores_.data(), kQueryRows * kRowLd, 0.0F);
    if (shape.softcap > 0) std::fill_n(strip_.data(), n_blocks_ * kQueryRows * kRowLd, 0.0F);
  }

  /// Queries [first, last) of a head: dq is set; `sums`, of the blocks from `sums_block` on, are added to.
  HWY_NOINLINE void run(const Head& head, std::int64_t first, std::int64_t last, std::int64_t sums_block, float* sums) {
    first_ = first;
    last_ = last;
    const std::int64_t n = last - first;
    const float *q = head.q + first * shape_.ld_q, *d_out = head.d_out + first * shape_.ld_out,
                *out = head.out + first * shape_.ld_out;
    pack_query_rows(n, kQueryRows, shape_.head_dim, shape_.scale, q, shape_.ld_q, queries_.data());
    pack_query_rows(n, kQueryRows, shape_.head_dim, 1.0F, d_out, shape_.ld_out, d_outs_.data());
    pack_across(n, shape_.scale, q, shape_.ld_q, queries_across_.data());
    pack_across(n, 1.0F, d_out, shape_.ld_out, d_outs_across_.data());
    for (std::int64_t i = 0; i < kQueries; ++i)
      deltas_[i] = i < n ? dot(shape_.head_dim, d_out + i * shape_.ld_out, out + i * shape_.ld_out) : 0.0F;
    std::fill_n(dq_.data(), kQueryRows * plan_.layout.dim, 0.0F);

    const std::int64_t first_block = Plan::oldest_key(shape_, first) / kKeys, last_block = core::ceil_div(last, kKeys);
    std::fill_n(maxima_, kQueries, head.sink == nullptr ? kMasked : *head.sink);
    for (std::int64_t block = first_block; block < last_block; ++block) score(head, block);
    exponentiate(first_block, last_block, head.sink);
    // Of the sink: P (0 - delta).
    for (std::int64_t i = 0; i < n && head.sink != nullptr; ++i)
      head.d_sink[(first + i) * shape_.n_heads] = -exp_of(*head.sink - maxima_[i]) * inverses_[i] * deltas_[i];
    for (std::int64_t block = first_block; block < last_block; ++block)
      add_block(head, block, sums + (block - sums_block) * plan_.sum_size());
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t c = 0; c < shape_.head_dim; ++c)
        head.dq[(first + i) * shape_.ld_q + c] = shape_.scale * dq_.data()[i * plan_.layout.dim + c];
  }

 private:
  /// Columns [from, to) of a block that the tile's rows [row, row + n) see, rounded outwards.
  struct Range {
    std::int64_t from, to;
  };
  Range seen(std::int64_t block, std::int64_t row, std::int64_t n) const {
    const std::int64_t begin = Plan::oldest_key(shape_, std::min(first_ + row, last_ - 1)) - block * kKeys;
    const std::int64_t end = std::min(first_ + row + n, last_) - block * kKeys;
    return {std::clamp<std::int64_t>(begin, 0, kKeys) / kScoreStep * kScoreStep,
            core::ceil_div(std::clamp<std::int64_t>(end, 0, kKeys), kScoreStep) * kScoreStep};
  }
  static float exp_of(float x) { return hn::GetLane(hn::Exp(FloatTag(), hn::Set(FloatTag(), x))); }
  float* strip_row(std::int64_t block, std::int64_t row) { return strip_.data() + (block * kQueryRows + row) * kRowLd; }
  float* slope_row(std::int64_t block, std::int64_t row) {
    return slopes_.data() + (block * kQueryRows + row) * kRowLd;
  }

  /// factor * x of n rows, transposed in register tiles: [rows / kMicroRows][kQueries][kMicroRows], zeros around.
  void pack_across(std::int64_t n, float factor, const float* x, std::int64_t ldx, float* packed) const {
    for (std::int64_t c = 0; c < plan_.rows; c += kMicroRows)
      for (std::int64_t i = 0; i < kQueries; ++i)
        for (std::int64_t r = c; r < c + kMicroRows; ++r)
          *packed++ = i < n && r < shape_.head_dim ? factor * x[i * ldx + r] : 0.0F;
  }

  /// Scores of a block, capped, kMasked where a query does not see the key; maxima_ follow.
  HWY_NOINLINE void score(const Head& head, std::int64_t block) {
    const FloatTag d;
    const Range all = seen(block, 0, kQueries);
    for (std::int64_t tile = 0; tile < kQueryRows; tile += kMicroRows) {
      const Range range = seen(block, tile, kMicroRows);
      tile_scores(std::max(all.from, range.from), range.to, shape_.head_dim, queries_.data(), kQueryRows, tile,
                  head.packed + block * kKeys * shape_.head_dim, strip_row(block, tile));
    }
    const FloatVector masked = hn::Set(d, kMasked);
    for (std::int64_t i = 0; i < kQueries; ++i) {
      float* row = strip_row(block, i);
      if (shape_.softcap > 0) cap(row, slope_row(block, i), all);
      const std::int64_t query = first_ + i;
      const std::int64_t begin = query < last_ ? Plan::oldest_key(shape_, query) - block * kKeys : 0,
                         end = query < last_ ? query + 1 - block * kKeys : 0;
      FloatVector maxima = hn::Set(d, maxima_[i]);
      if (begin <= all.from && end >= all.to) {
        for (std::int64_t j = all.from; j < all.to; j += kWidth) maxima = hn::Max(maxima, hn::Load(d, row + j));
      } else {
        const FloatVector low = hn::Set(d, static_cast<float>(begin)), high = hn::Set(d, static_cast<float>(end));
        for (std::int64_t j = all.from; j < all.to; j += kWidth) {
          const FloatVector index = hn::Iota(d, static_cast<float>(j));
          const FloatVector value =
              hn::IfThenElse(hn::And(hn::Ge(index, low), hn::Lt(index, high)), hn::Load(d, row + j), masked);
          hn::Store(value, d, row + j);
          maxima = hn::Max(maxima, value);
        }
      }
      maxima_[i] = hn::GetLane(hn::MaxOfLanes(d, maxima));
    }
  }

  /// Scores become cap tanh(score / cap), `slopes` the derivative of that.
  HWY_INLINE void cap(float* scores, float* slopes, Range range) const {
    const FloatTag d;
    cap_row(scores + range.from, range.to - range.from, shape_.softcap);
    const FloatVector one = hn::Set(d, 1.0F), whole = hn::Set(d, shape_.softcap);
    for (std::int64_t j = range.from; j < range.to; j += kWidth) {
      const FloatVector share = hn::Div(hn::Load(d, scores + j), whole);
      hn::Store(hn::NegMulAdd(share, share, one), d, slopes + j);
    }
  }

  /// The strip becomes exp(score - maximum), inverses_ 1 / their sums.
  HWY_NOINLINE void exponentiate(std::int64_t first_block, std::int64_t last_block, const float* sink) {
    const FloatTag d;
    for (std::int64_t i = 0; i < kQueries; ++i) {
      const FloatVector shift = hn::Set(d, maxima_[i]);
      FloatVector sums[kParts];
      for (auto& sum : sums) sum = hn::Zero(d);
      for (std::int64_t block = first_block; block < last_block; ++block) {
        const Range all = seen(block, 0, kQueries);
        float* row = strip_row(block, i);
        for (std::int64_t j = all.from; j < all.to; j += kLanes)
          for (std::int64_t part = 0; part < kParts; ++part) {
            float* at = row + j + part * kWidth;
            const FloatVector value = hn::Exp(d, hn::Sub(hn::Load(d, at), shift));
            sums[part] = hn::Add(sums[part], value);
            hn::Store(value, d, at);
          }
      }
      const float none = sink == nullptr ? 0.0F : exp_of(*sink - maxima_[i]);
      inverses_[i] = first_ + i < last_ ? 1.0F / (sum_lanes(sums) + none) : 0.0F;
    }
  }

  /// What the tile's queries and the keys of a block give each other. sums: of the block.
  HWY_NOINLINE void add_block(const Head& head, std::int64_t block, float* sums) {
    const FloatTag d;
    const Layout& layout = plan_.layout;
    const Range all = seen(block, 0, kQueries);
    const float* values = head.packed + layout.transposed_size() + block * kKeys * shape_.head_dim;
    for (std::int64_t tile = 0; tile < kQueryRows; tile += kMicroRows) {
      const Range range = seen(block, tile, kMicroRows);
      tile_scores(std::max(all.from, range.from), range.to, shape_.head_dim, d_outs_.data(), kQueryRows, tile, values,
                  d_scores_.data() + tile * kRowLd);
    }
    for (std::int64_t i = 0; i < kQueries; ++i) {
      const FloatVector inverse = hn::Set(d, inverses_[i]), delta = hn::Set(d, deltas_[i]);
      const float *shares = strip_row(block, i), *slopes = shape_.softcap > 0 ? slope_row(block, i) : nullptr;
      float* d_scores = d_scores_.data() + i * kRowLd;
      for (std::int64_t j = all.from; j < all.to; j += kWidth) {
        const FloatVector share = hn::Mul(hn::Load(d, shares + j), inverse);
        FloatVector slope = hn::Mul(share, hn::Sub(hn::Load(d, d_scores + j), delta));
        if (slopes != nullptr) slope = hn::Mul(slope, hn::Load(d, slopes + j));
        const std::int64_t in_panel = (j / kPanel * kQueries + i) * kPanel + j % kPanel;
        hn::Store(slope, d, d_scores + j);
        hn::Store(slope, d, d_score_panels_.data() + in_panel);
        hn::Store(share, d, share_panels_.data() + in_panel);
      }
    }
    const float* keys = head.packed + 2 * layout.transposed_size() + block * kKeys * layout.dim;
    for (std::int64_t tile = 0; tile < kQueryRows; tile += kMicroRows)
      for (std::int64_t column = 0; column < layout.dim; column += kPanel)
        micro_tile<float, false>(all.to - all.from, d_scores_.data() + tile * kRowLd + all.from,
                                 keys + column * kKeys + all.from * kPanel, dq_.data() + tile * layout.dim + column,
                                 layout.dim, {1.0F, 1.0F});
    float* value_sums = sums + plan_.rows * kRowLd;
    for (std::int64_t j = all.from; j < all.to; j += kPanel)
      for (std::int64_t r = 0; r < plan_.rows; r += kMicroRows) {
        micro_tile<float, true>(kQueries, queries_across_.data() + r * kQueries, d_score_panels_.data() + j * kQueries,
                                sums + r * kRowLd + j, kRowLd, {1.0F, 1.0F});
        micro_tile<float, true>(kQueries, d_outs_across_.data() + r * kQueries, share_panels_.data() + j * kQueries,
                                value_sums + r * kRowLd + j, kRowLd, {1.0F, 1.0F});
      }
  }

  const AttentionShape& shape_;
  const Plan& plan_;
  std::int64_t n_blocks_, rows_size_, first_ = 0, last_ = 0;
  Scratch<float> strip_, slopes_;                  // [block][kQueryRows][kRowLd]
  Scratch<float> queries_, d_outs_;                // see pack_query_rows
  Scratch<float> queries_across_, d_outs_across_;  // see pack_across
  Scratch<float> d_scores_;                        // [kQueryRows][kRowLd]
  Scratch<float> d_score_panels_, share_panels_;   // [kKeys / kPanel][kQueries][kPanel]
  Scratch<float> dq_;                              // [kQueryRows][layout.dim]
  float maxima_[kQueries], inverses_[kQueries], deltas_[kQueries];
};

/// x [a key each, head_dim] of block `block` = the sums of all chunks that saw it, transposed; `offset` into a block's.
HWY_NOINLINE void merge_block(const AttentionShape& shape, const Plan& plan, const float* sums, std::int64_t offset,
                              std::int64_t block, float* x) {
  const FloatTag d;
  const std::int64_t n = std::min(kKeys, shape.n_tokens - block * kKeys);
  Scratch<float> total(shape.head_dim * kRowLd);
  std::fill_n(total.data(), shape.head_dim * kRowLd, 0.0F);
  for (const Chunk& chunk : plan.chunks) {
    if (block < chunk.first_block || block >= chunk.last_block) continue;
    const float* from = sums + (chunk.sums + block - chunk.first_block) * plan.sum_size() + offset;
    for (std::int64_t i = 0; i < shape.head_dim * kRowLd; i += kWidth)
      hn::Store(hn::Add(hn::Load(d, total.data() + i), hn::Load(d, from + i)), d, total.data() + i);
  }
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t c = 0; c < shape.head_dim; ++c)
      x[(block * kKeys + i) * shape.ld_kv + c] = total.data()[c * kRowLd + i];
}

void attention_gradient(const Exec& exec, const AttentionShape& shape, const float* q, const float* k, const float* v,
                        const float* out, const float* d_out, float* dq, float* dk, float* dv, float* d_sinks) {
  if (shape.n_sequences == 0 || shape.n_tokens == 0) return;
  const Plan plan(shape);
  const std::int64_t n_packed = shape.n_sequences * shape.n_kv_heads,
                     n_chunks = static_cast<std::int64_t>(plan.chunks.size());
  const auto kv_offset = [&](std::int64_t i) {
    return i / shape.n_kv_heads * shape.n_tokens * shape.ld_kv + i % shape.n_kv_heads * shape.head_dim;
  };
  Scratch<float> packed(n_packed * plan.head_size()), sums(n_packed * plan.n_sum_blocks * plan.sum_size());
  exec.pool->parallel_for(n_packed, [&](std::int64_t i) {
    float* head = packed.data() + i * plan.head_size();
    pack_transposed(shape, plan.layout, k + kv_offset(i), head);
    pack_transposed(shape, plan.layout, v + kv_offset(i), head + plan.layout.transposed_size());
    pack_blocks(shape, plan.layout, k + kv_offset(i), head + 2 * plan.layout.transposed_size());
  });
  // Late queries see the most keys: they come first, so that no thread is left with a long one at the end.
  exec.pool->parallel_for(n_chunks * n_packed, [&](std::int64_t task) {
    const Chunk& chunk = plan.chunks[static_cast<std::size_t>(n_chunks - 1 - task / n_packed)];
    const std::int64_t i = task % n_packed, sequence = i / shape.n_kv_heads;
    float* chunk_sums = sums.data() + (i * plan.n_sum_blocks + chunk.sums) * plan.sum_size();
    std::fill_n(chunk_sums, (chunk.last_block - chunk.first_block) * plan.sum_size(), 0.0F);
    Tile tile(shape, plan);
    for (std::int64_t h = i % shape.n_kv_heads * plan.group; h < (i % shape.n_kv_heads + 1) * plan.group; ++h) {
      const std::int64_t at_q = sequence * shape.n_tokens * shape.ld_q + h * shape.head_dim,
                         at_out = sequence * shape.n_tokens * shape.ld_out + h * shape.head_dim;
      const bool sunk = shape.sinks != nullptr;
      const Head head{q + at_q,
                      out + at_out,
                      d_out + at_out,
                      dq + at_q,
                      packed.data() + i * plan.head_size(),
                      sunk ? shape.sinks + h : nullptr,
                      sunk ? d_sinks + sequence * shape.n_tokens * shape.n_heads + h : nullptr};
      for (std::int64_t first = chunk.first; first < chunk.last; first += kQueries)
        tile.run(head, first, std::min(chunk.last, first + kQueries), chunk.first_block, chunk_sums);
    }
  });
  const std::int64_t n_blocks = core::ceil_div(shape.n_tokens, kKeys);
  exec.pool->parallel_for(n_packed * n_blocks, [&](std::int64_t task) {
    const std::int64_t i = task / n_blocks, block = task % n_blocks;
    const float* head_sums = sums.data() + i * plan.n_sum_blocks * plan.sum_size();
    merge_block(shape, plan, head_sums, 0, block, dk + kv_offset(i));
    merge_block(shape, plan, head_sums, plan.rows * kRowLd, block, dv + kv_offset(i));
  });
}

}  // namespace
}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {

HWY_EXPORT(attention_gradient);

void cpu_attention_gradient(const Exec& exec, const AttentionShape& shape, const float* q, const float* k,
                            const float* v, const float* out, const float* d_out, float* dq, float* dk, float* dv,
                            float* d_sinks) {
  VORONOI_REQUIRE(shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0,
                  "query heads must be a multiple of key heads");
  HWY_DYNAMIC_DISPATCH(attention_gradient)(exec, shape, q, k, v, out, d_out, dq, dk, dv, d_sinks);
}

}  // namespace voronoi::kernels
#endif
