// What causal attention and its gradient share: operands packed for the register tile, scores of a tile of queries.
// Once for each vector width (hence the guard that flips).
#if defined(VORONOI_KERNELS_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VORONOI_KERNELS_CPU_ATTENTION_INL_H_
#undef VORONOI_KERNELS_CPU_ATTENTION_INL_H_
#else
#define VORONOI_KERNELS_CPU_ATTENTION_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "core/types.h"
#include "kernels/cpu/micro_kernel-inl.h"
#include "kernels/cpu/nn-inl.h"
#include "kernels/nn.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {

// Keys a block: fixed, since it decides where sums are cut; every vector width divides it.
inline constexpr std::int64_t kKeys = 256;
static_assert(kKeys <= kRowLd);
inline constexpr std::int64_t kPanel = kMicroColumns<float>;
static_assert(kPanel == 2 * kWidth);
// Widths of rows of scores are multiples of it.
inline constexpr std::int64_t kScoreStep = std::max(kPanel, kLanes);
inline constexpr float kMasked = -1e30F;

inline std::int64_t key_count(const AttentionShape& shape) { return shape.n_past + shape.n_tokens; }

struct Layout {
  std::int64_t n_keys, dim;  // both rounded up: to blocks of keys, to panels
  std::int64_t head_dim;

  explicit Layout(const AttentionShape& shape)
      : n_keys(core::ceil_div(key_count(shape), kKeys) * kKeys),
        dim(core::ceil_div(shape.head_dim, kPanel) * kPanel),
        head_dim(shape.head_dim) {}
  std::int64_t transposed_size() const { return n_keys * head_dim; }
  std::int64_t blocks_size() const { return n_keys * dim; }
};

/// A head of keys or values for products with its transpose, in panels [n_keys / kPanel][head_dim][kPanel].
inline void pack_transposed(const AttentionShape& shape, const Layout& layout, const float* x, float* packed) {
  for (std::int64_t key = 0; key < layout.n_keys; key += kPanel, packed += shape.head_dim * kPanel) {
    const std::int64_t rows = std::clamp<std::int64_t>(key_count(shape) - key, 0, kPanel);
    pack_rows<kPanel>(shape.head_dim, rows, x + key * shape.ld_kv, shape.ld_kv, packed);
  }
}

/// The same for products with it as it is, in panels of a block of keys [n_keys / kKeys][dim / kPanel][kKeys][kPanel].
inline void pack_blocks(const AttentionShape& shape, const Layout& layout, const float* x, float* packed) {
  for (std::int64_t key = 0; key < layout.n_keys; key += kKeys)
    for (std::int64_t column = 0; column < layout.dim; column += kPanel, packed += kKeys * kPanel) {
      const std::int64_t rows = std::min(kKeys, key_count(shape) - key);
      pack_columns<kPanel>(rows, std::min(kPanel, shape.head_dim - column), x + key * shape.ld_kv + column, shape.ld_kv,
                           packed);
      std::fill(packed + rows * kPanel, packed + kKeys * kPanel, 0.0F);
    }
}

inline std::int64_t query_rows_size(std::int64_t head_dim, std::int64_t padded) {
  return core::ceil_div(head_dim, kGemmDepth) * padded * kRowLd;
}

/// factor * x for n rows of a head and rows of zeros up to `padded`, kGemmDepth of their components at a time:
/// [head_dim / kGemmDepth][padded][kRowLd].
inline void pack_query_rows(std::int64_t n, std::int64_t padded, std::int64_t head_dim, float factor, const float* x,
                            std::int64_t ldx, float* packed) {
  for (std::int64_t c = 0; c < head_dim; c += kGemmDepth)
    for (std::int64_t i = 0; i < padded; ++i) {
      float* row = packed + c / kGemmDepth * padded * kRowLd + i * kRowLd;
      const std::int64_t depth = std::min(kGemmDepth, head_dim - c);
      for (std::int64_t p = 0; p < depth; ++p) row[p] = i < n ? factor * x[i * ldx + c + p] : 0.0F;
    }
}

/// scores [kMicroRows, kRowLd], columns [begin, end), multiples of kPanel: rows from `tile` on of packed query rows
/// times the keys of a block, `transposed` being the block's first panel.
HWY_INLINE void tile_scores(std::int64_t begin, std::int64_t end, std::int64_t head_dim, const float* queries,
                            std::int64_t padded, std::int64_t tile, const float* transposed, float* scores) {
  for (std::int64_t key = begin; key < end; key += kPanel)
    for (std::int64_t c = 0; c < head_dim; c += kGemmDepth)
      micro_tile<float, false>(std::min(kGemmDepth, head_dim - c), queries + (c / kGemmDepth * padded + tile) * kRowLd,
                               transposed + key * head_dim + c * kPanel, scores + key, kRowLd,
                               {1.0F, c == 0 ? 0.0F : 1.0F});
}

/// scores [0, width) = cap tanh(score / cap).
inline void cap_row(float* scores, std::int64_t width, float cap) {
  const FloatTag d;
  const FloatVector factor = hn::Set(d, cap);
  for (std::int64_t i = 0; i < width; i += kWidth)
    hn::Store(hn::Mul(hn::Tanh(d, hn::Div(hn::Load(d, scores + i), factor)), factor), d, scores + i);
}

/// What a row has seen so far: output = accumulator / sum.
struct RowState {
  float maximum = kMasked, sum = 0;
};

/// scores [0, width) become exp(score - maximum) inside [begin, end) and zero outside. Returns the factor that the
/// row's earlier accumulator has to be multiplied by.
HWY_INLINE float softmax_row(float* scores, std::int64_t width, std::int64_t begin, std::int64_t end, RowState& state) {
  const FloatTag d;
  const FloatVector first = hn::Set(d, static_cast<float>(begin)), last = hn::Set(d, static_cast<float>(end));
  const FloatVector masked = hn::Set(d, kMasked);
  const bool whole = begin == 0 && end == width;
  const auto inside = [&](std::int64_t i) HWY_ATTR {
    const FloatVector index = hn::Iota(d, static_cast<float>(i));
    return hn::And(hn::Ge(index, first), hn::Lt(index, last));
  };
  if (begin >= end) {
    std::fill(scores, scores + width, 0.0F);
    return 1.0F;
  }
  FloatVector maxima = masked;
  if (whole) {
    for (std::int64_t i = 0; i < width; i += kWidth) maxima = hn::Max(maxima, hn::Load(d, scores + i));
  } else {
    for (std::int64_t i = 0; i < width; i += kWidth)
      maxima = hn::Max(maxima, hn::IfThenElse(inside(i), hn::Load(d, scores + i), masked));
  }
  const float maximum = std::max(state.maximum, hn::GetLane(hn::MaxOfLanes(d, maxima)));
  const float correction =
      maximum == state.maximum ? 1.0F : hn::GetLane(hn::Exp(d, hn::Set(d, std::max(kMasked, state.maximum - maximum))));
  const FloatVector shift = hn::Set(d, maximum);
  FloatVector sums[kParts];
  for (auto& sum : sums) sum = hn::Zero(d);
  for (std::int64_t i = 0; i < width; i += kLanes)
    for (std::int64_t part = 0; part < kParts; ++part) {
      float* at = scores + i + part * kWidth;
      FloatVector value = hn::Exp(d, hn::Sub(hn::Load(d, at), shift));
      if (!whole) value = hn::IfThenElseZero(inside(i + part * kWidth), value);
      sums[part] = hn::Add(sums[part], value);
      hn::Store(value, d, at);
    }
  state.maximum = maximum;
  state.sum = state.sum * correction + sum_lanes(sums);
  return correction;
}

}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // VORONOI_KERNELS_CPU_ATTENTION_INL_H_
