#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/bf16_panels.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <optional>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "core/types.h"
#include "kernels/cpu/bf16_panels.h"
#include "kernels/cpu/micro_kernel-inl.h"
#include "kernels/cpu/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {
namespace {

constexpr std::int64_t kPairs = kBf16Depth / 2;

/// A float's bits whose upper half is the bfloat16 next to it, as core::float_to_bfloat has it.
HWY_INLINE std::uint32_t rounded_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t up = bits + 0x7FFFU + (bits >> 16 & 1U);
  return (bits & 0x7FFFFFFFU) > 0x7F800000U ? bits | 0x00400000U : up;
}
HWY_INLINE std::uint16_t bits_of(float value) { return static_cast<std::uint16_t>(rounded_bits(value) >> 16); }
HWY_INLINE std::uint16_t bits_of(std::uint16_t bits) { return bits; }
HWY_INLINE std::uint32_t pair_of(float low, float high) {
  return rounded_bits(low) >> 16 | (rounded_bits(high) & 0xFFFF0000U);
}
HWY_INLINE std::uint32_t pair_of(std::uint16_t low, std::uint16_t high) {
  return low | static_cast<std::uint32_t>(high) << 16;
}

/// The matrix's values from row i and k p on.
template <class T>
const T* at(const Bf16Operand& x, std::int64_t i, std::int64_t p) {
  const std::int64_t offset = x.along_k ? i * x.ld + p : p * x.ld + i;
  if constexpr (sizeof(T) == 4)
    return x.wide + offset;
  else
    return x.bits + offset;
}

/// tile [row][32] of `count` rows along k, of which `depth` values are there.
template <class T>
void rows_along_k(std::int64_t count, std::int64_t depth, const T* x, std::int64_t ld, std::uint16_t* tile) {
  if (count < kBf16Panel || depth < kBf16Depth) std::fill_n(tile, kBf16StepValues, std::uint16_t{0});
  for (std::int64_t r = 0; r < count; ++r, x += ld, tile += kBf16Depth) {
    if (depth == kBf16Depth)
      for (std::int64_t p = 0; p < kBf16Depth; ++p) tile[p] = bits_of(x[p]);
    else
      for (std::int64_t p = 0; p < depth; ++p) tile[p] = bits_of(x[p]);
  }
}

/// tile [pair][column][2] of `depth` rows of k, of which `count` values are there.
template <class T>
void pairs_across_k(std::int64_t count, std::int64_t depth, const T* x, std::int64_t ld, std::uint16_t* tile) {
  if (count < kBf16Panel || depth < kBf16Depth) {
    std::fill_n(tile, kBf16StepValues, std::uint16_t{0});
    for (std::int64_t p = 0; p < depth; ++p)
      for (std::int64_t c = 0; c < count; ++c) tile[(p / 2 * kBf16Panel + c) * 2 + p % 2] = bits_of(x[p * ld + c]);
    return;
  }
  for (std::int64_t pair = 0; pair < kPairs; ++pair, x += 2 * ld, tile += 2 * kBf16Panel) {
    std::uint32_t values[kBf16Panel];
    for (std::int64_t c = 0; c < kBf16Panel; ++c) values[c] = pair_of(x[c], x[ld + c]);
    std::memcpy(tile, values, sizeof values);
  }
}

/// 16 rows of 16 pairs, rows `ld` values apart, become [pair][row].
void turn_tile(const std::uint16_t* source, std::int64_t ld, std::uint16_t* target) {
#if HWY_TARGET == HWY_SCALAR
  for (std::int64_t r = 0; r < kBf16Panel; ++r)
    for (std::int64_t pair = 0; pair < kPairs; ++pair)
      std::copy_n(source + r * ld + 2 * pair, 2, target + 2 * (pair * kBf16Panel + r));
#else
  const hn::CappedTag<std::uint32_t, kBf16Panel> d;
  const hn::Repartition<std::uint16_t, decltype(d)> d16;
  constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  for (std::int64_t pair = 0; pair < kPairs; pair += 4)
    for (std::int64_t r = 0; r < kBf16Panel; r += kLanes) {
      hn::Vec<decltype(d)> turned[4];
      turn_rows(d, source + r * ld + 2 * pair, ld, turned);
      for (std::int64_t q = 0; q < 4; ++q)
        hn::StoreU(hn::BitCast(d16, turned[q]), d16, target + 2 * ((pair + q) * kBf16Panel + r));
    }
#endif
}

/// One step of a panel. Rows along k make a row tile at once and a column tile by turning; across k it is the reverse.
template <class T>
void pack_step(const Bf16Operand& x, bool rows, std::int64_t count, std::int64_t depth, std::int64_t first,
               std::int64_t p, std::uint16_t* tile) {
  const T* source = at<T>(x, first, p);
  if (x.along_k == rows)
    return x.along_k ? rows_along_k(count, depth, source, x.ld, tile)
                     : pairs_across_k(count, depth, source, x.ld, tile);
  if constexpr (sizeof(T) == 2)
    if (x.along_k && count == kBf16Panel && depth == kBf16Depth) return turn_tile(source, x.ld, tile);
  alignas(64) std::uint16_t other[kBf16StepValues];
  if (x.along_k)
    rows_along_k(count, depth, source, x.ld, other);
  else
    pairs_across_k(count, depth, source, x.ld, other);
  turn_tile(other, kBf16Depth, tile);
}

void pack_panel(const Bf16Operand& x, bool rows, std::int64_t extent, std::int64_t k, std::int64_t first,
                std::uint16_t* panel) {
  const std::int64_t count = std::min(kBf16Panel, extent - first);
  for (std::int64_t p = 0; p < k; p += kBf16Depth, panel += kBf16StepValues) {
    const std::int64_t depth = std::min(kBf16Depth, k - p);
    if (x.wide != nullptr)
      pack_step<float>(x, rows, count, depth, first, p, panel);
    else
      pack_step<std::uint16_t>(x, rows, count, depth, first, p, panel);
  }
}

using Bf16Tag = hn::CappedTag<float, kBf16Panel>;
using Bf16Bits = hn::RebindToUnsigned<Bf16Tag>;
using Bf16Vector = hn::Vec<Bf16Tag>;
constexpr auto kBf16Lanes = static_cast<std::int64_t>(hn::MaxLanes(Bf16Tag()));
// Rows at a time: two chains each, enough to hide what a fused multiply-add takes, and their sums in registers.
constexpr int kBf16Rows = HWY_TARGET <= HWY_AVX3 ? 8 : 4;
constexpr float kLeastNormal = 0x1p-126F;

/// A result that may be subnormal; the sum of two floats is exact where it is.
template <bool kFlush>
HWY_INLINE Bf16Vector flushed(Bf16Vector value) {
  if constexpr (!kFlush) return value;
  const Bf16Tag d;
  return hn::IfThenElse(hn::Lt(hn::Abs(value), hn::Set(d, kLeastNormal)), hn::CopySign(hn::Zero(d), value), value);
}

template <bool kFlush>
HWY_INLINE Bf16Vector multiply_add(Bf16Vector a, Bf16Vector b, Bf16Vector sum) {
  const Bf16Tag d;
  const Bf16Vector result = hn::MulAdd(a, b, sum);
  if constexpr (!kFlush) return result;
  const auto small = hn::Le(hn::Abs(result), hn::Set(d, kLeastNormal));
  if (hn::AllFalse(d, small)) return result;
  // Rounded among subnormals a value may come to the least normal number that a mantissa's rounding leaves below it.
  // Where the result is not 0 the smaller factor is below 2^-51 and the sum below 2^-102, so that the scale is exact.
  const Bf16Vector scale = hn::Set(d, 0x1p64F), zero = hn::CopySign(hn::Zero(d), result);
  const auto a_is_less = hn::Lt(hn::Abs(a), hn::Abs(b));
  const Bf16Vector less = hn::IfThenElse(a_is_less, a, b), more = hn::IfThenElse(a_is_less, b, a);
  const Bf16Vector exact = hn::MulAdd(hn::Mul(less, scale), more, hn::Mul(sum, scale));
  const auto below = hn::Or(hn::Lt(hn::Abs(exact), hn::Set(d, kLeastNormal * 0x1p64F)),
                            hn::Lt(hn::Abs(result), hn::Set(d, kLeastNormal)));
  return hn::IfThenElse(hn::And(small, below), zero, result);
}

/// The values of even and odd k of a vector of pairs.
template <bool kFlush>
HWY_INLINE void widen_pairs(hn::Vec<Bf16Bits> pairs, Bf16Vector& even, Bf16Vector& odd) {
  const Bf16Tag d;
  const Bf16Bits du;
  even = flushed<kFlush>(hn::BitCast(d, hn::ShiftLeft<16>(pairs)));
  odd = flushed<kFlush>(hn::BitCast(d, hn::And(pairs, hn::Set(du, 0xFFFF0000U))));
}

HWY_INLINE hn::Vec<Bf16Bits> load_pairs(const std::uint16_t* pairs) {
  const Bf16Bits du;
#if HWY_TARGET == HWY_SCALAR
  return hn::Set(du, pair_of(pairs[0], pairs[1]));
#else
  return hn::BitCast(du, hn::LoadU(hn::Repartition<std::uint16_t, Bf16Bits>(), pairs));
#endif
}

template <bool kFlush>
HWY_NOINLINE void multiply_vectors(std::int64_t steps, const float* rows, const std::uint16_t* columns, float* sums) {
  const Bf16Tag d;
  for (std::int64_t c = 0; c < kBf16Panel; c += kBf16Lanes)
    for (std::int64_t r = 0; r < kBf16Panel; r += kBf16Rows) {
      Bf16Vector sum[kBf16Rows];
      for (int i = 0; i < kBf16Rows; ++i) sum[i] = hn::LoadU(d, sums + (r + i) * kBf16Panel + c);
      const float* a = rows + r * kBf16Depth;
      const std::uint16_t* b = columns + 2 * c;
      for (std::int64_t s = 0; s < steps; ++s, a += kBf16StepValues) {
        Bf16Vector even[kBf16Rows], odd[kBf16Rows];
        for (int i = 0; i < kBf16Rows; ++i) even[i] = odd[i] = hn::Zero(d);
        for (std::int64_t p = 0; p < kBf16Depth; p += 2, b += 2 * kBf16Panel) {
          Bf16Vector b_even, b_odd;
          widen_pairs<kFlush>(load_pairs(b), b_even, b_odd);
          for (int i = 0; i < kBf16Rows; ++i) {
            even[i] = multiply_add<kFlush>(hn::Set(d, a[i * kBf16Depth + p]), b_even, even[i]);
            odd[i] = multiply_add<kFlush>(hn::Set(d, a[i * kBf16Depth + p + 1]), b_odd, odd[i]);
          }
        }
        for (int i = 0; i < kBf16Rows; ++i)
          sum[i] = flushed<kFlush>(hn::Add(sum[i], flushed<kFlush>(hn::Add(even[i], odd[i]))));
      }
      for (int i = 0; i < kBf16Rows; ++i) hn::StoreU(sum[i], d, sums + (r + i) * kBf16Panel + c);
    }
}

void multiply_flushing(std::int64_t steps, bool flush, const float* rows, const std::uint16_t* columns, float* sums) {
  if (flush)
    multiply_vectors<true>(steps, rows, columns, sums);
  else
    multiply_vectors<false>(steps, rows, columns, sums);
}

#if HWY_TARGET == HWY_SCALAR
std::int64_t few_rows(const Exec&, const Bf16Product&, bool) { return 0; }
#else

constexpr int kBf16Vectors = 2;  // of columns at a time
constexpr std::int64_t kBf16FewColumns = kBf16Vectors * kBf16Lanes;

/// sums [row][kBf16FewColumns] for columns from j on; rows [kRows][steps * 32] are widened.
template <int kRows, bool kFlush>
HWY_NOINLINE void few_columns(const Bf16Product& x, std::int64_t j, const float* rows, std::int64_t ld_rows,
                              float* sums) {
  const Bf16Tag d;
  const Bf16Bits du;
  Bf16Vector sum[kRows][kBf16Vectors];
  for (auto& row : sum)
    for (Bf16Vector& value : row) value = hn::Zero(d);
  for (std::int64_t p = 0; p < x.k; p += kBf16Depth) {
    const std::uint16_t* b = x.b.bits + j * x.b.ld + p;
    std::int64_t ld = x.b.ld;
    std::uint16_t end[kBf16FewColumns * kBf16Depth];
    if (x.k - p < kBf16Depth) {
      std::fill(std::begin(end), std::end(end), std::uint16_t{0});
      for (std::int64_t c = 0; c < kBf16FewColumns; ++c) std::copy_n(b + c * ld, x.k - p, end + c * kBf16Depth);
      b = end;
      ld = kBf16Depth;
    }
    Bf16Vector even[kRows][kBf16Vectors], odd[kRows][kBf16Vectors];
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kBf16Vectors; ++v) even[r][v] = odd[r][v] = hn::Zero(d);
    for (std::int64_t q = 0; q < kBf16Depth; q += 8)
      for (int v = 0; v < kBf16Vectors; ++v) {
        hn::Vec<Bf16Bits> turned[4];
        turn_rows(du, b + v * kBf16Lanes * ld + q, ld, turned);
        for (std::int64_t pair = 0; pair < 4; ++pair) {
          Bf16Vector b_even, b_odd;
          widen_pairs<kFlush>(turned[pair], b_even, b_odd);
          for (int r = 0; r < kRows; ++r) {
            const float* a = rows + r * ld_rows + p + q + 2 * pair;
            even[r][v] = multiply_add<kFlush>(hn::Set(d, a[0]), b_even, even[r][v]);
            odd[r][v] = multiply_add<kFlush>(hn::Set(d, a[1]), b_odd, odd[r][v]);
          }
        }
      }
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kBf16Vectors; ++v)
        sum[r][v] = flushed<kFlush>(hn::Add(sum[r][v], flushed<kFlush>(hn::Add(even[r][v], odd[r][v]))));
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kBf16Vectors; ++v) hn::StoreU(sum[r][v], d, sums + r * kBf16FewColumns + v * kBf16Lanes);
}

template <bool kFlush>
void few_columns_of(const Bf16Product& x, std::int64_t j, const float* rows, std::int64_t ld_rows, float* sums) {
  static_assert(kBf16FewRows == 4);
  const auto kernel = x.m == 1 ? few_columns<1, kFlush>
                      : x.m == 2 ? few_columns<2, kFlush>
                      : x.m == 3 ? few_columns<3, kFlush>
                                 : few_columns<4, kFlush>;
  std::optional<FlushScope> scope;
  if constexpr (!kFlush) scope.emplace();
  kernel(x, j, rows, ld_rows, sums);
}

std::int64_t few_rows(const Exec& exec, const Bf16Product& x, bool flush) {
  const std::int64_t ld_rows = core::ceil_div(x.k, kBf16Depth) * kBf16Depth, pieces = x.n / kBf16FewColumns;
  Scratch<float> rows(x.m * ld_rows);
  std::fill_n(rows.data(), x.m * ld_rows, 0.0F);
  for (std::int64_t r = 0; r < x.m; ++r)
    for (std::int64_t p = 0; p < x.k; ++p) {
      const float value = std::bit_cast<float>(rounded_bits(x.a.wide[r * x.a.ld + p]) & 0xFFFF0000U);
      rows.data()[r * ld_rows + p] = flush && std::abs(value) < kLeastNormal ? std::copysign(0.0F, value) : value;
    }
  // A few pieces a task, so that the threads end together.
  const std::int64_t a_task = std::clamp<std::int64_t>(pieces / (4 * exec.pool->size()), 1, 16);
  exec.pool->parallel_for(core::ceil_div(pieces, a_task), [&](std::int64_t task) {
    const std::int64_t end = std::min(pieces, (task + 1) * a_task);
    for (std::int64_t piece = task * a_task; piece < end; ++piece) {
      const std::int64_t j = piece * kBf16FewColumns;
      float sums[kBf16FewRows * kBf16FewColumns];
      if (flush)
        few_columns_of<true>(x, j, rows.data(), ld_rows, sums);
      else
        few_columns_of<false>(x, j, rows.data(), ld_rows, sums);
      for (std::int64_t r = 0; r < x.m; ++r)
        for (std::int64_t c = 0; c < kBf16FewColumns; ++c) {
          float& target = x.c[r * x.ldc + j + c];
          const float sum = sums[r * kBf16FewColumns + c];
          target = x.beta == 0.0F ? sum : target + sum;
        }
    }
  });
  return pieces * kBf16FewColumns;
}

#endif

}  // namespace
}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {

HWY_EXPORT(pack_panel);
HWY_EXPORT(multiply_flushing);
HWY_EXPORT(few_rows);

void pack_bf16_rows(const Bf16Operand& x, std::int64_t extent, std::int64_t k, std::int64_t first,
                    std::uint16_t* panel) {
  HWY_DYNAMIC_DISPATCH(pack_panel)(x, true, extent, k, first, panel);
}
void pack_bf16_columns(const Bf16Operand& x, std::int64_t extent, std::int64_t k, std::int64_t first,
                       std::uint16_t* panel) {
  HWY_DYNAMIC_DISPATCH(pack_panel)(x, false, extent, k, first, panel);
}

void widen_bf16_rows(std::int64_t steps, bool flush, const std::uint16_t* panel, float* wide) {
  for (std::int64_t i = 0; i < steps * kBf16StepValues; ++i) {
    const float value = core::bfloat_to_float(panel[i]);
    wide[i] = flush && std::abs(value) < 0x1p-126F ? std::copysign(0.0F, value) : value;
  }
}

void multiply_bf16_vectors(std::int64_t steps, bool flush, const float* rows, const std::uint16_t* columns,
                           float* sums) {
  HWY_DYNAMIC_DISPATCH(multiply_flushing)(steps, flush, rows, columns, sums);
}

std::int64_t bf16_few_rows(const Exec& exec, const Bf16Product& product, bool flush) {
  return HWY_DYNAMIC_DISPATCH(few_rows)(exec, product, flush);
}

#if defined(__x86_64__)
FlushScope::FlushScope() : saved_(_mm_getcsr()) {
  constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZeros = 0x0040;
  _mm_setcsr(saved_ | kFlushToZero | kDenormalsAreZeros);
}
FlushScope::~FlushScope() { _mm_setcsr(saved_); }
#else
FlushScope::FlushScope() = default;
FlushScope::~FlushScope() = default;
#endif

}  // namespace voronoi::kernels
#endif
