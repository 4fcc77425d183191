// One register tile of a matrix product, compiled once for each vector width; included inside a foreach_target source.
// Every element of C is one chain of fused multiply-adds in rising k, so that its bits do not depend on the width
// (AVX2, AVX-512).
#if defined(VORONOI_KERNELS_MICRO_KERNEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VORONOI_KERNELS_MICRO_KERNEL_INL_H_
#undef VORONOI_KERNELS_MICRO_KERNEL_INL_H_
#else
#define VORONOI_KERNELS_MICRO_KERNEL_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <utility>

#include "hwy/highway.h"
#include "kernels/cpu/gemm.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// 14 x 2 accumulators fill AVX-512's 32 registers, 6 x 2 the 16 of AVX2.
inline constexpr int kMicroRows = HWY_TARGET <= HWY_AVX3 ? 14 : 6;

template <class T>
inline constexpr std::int64_t kMicroColumns = static_cast<std::int64_t>(2 * hn::MaxLanes(hn::ScalableTag<T>()));

/// What becomes of a tile: C = alpha * product + beta * C.
template <class T>
struct Merge {
  T alpha = 1, beta = 0;
};

template <class D, class T>
HWY_INLINE void merge_into(D d, Merge<T> merge, hn::Vec<D> value, T* target) {
  if (merge.alpha != T{1}) value = hn::Mul(hn::Set(d, merge.alpha), value);
  if (merge.beta == T{1})
    value = hn::Add(hn::LoadU(d, target), value);
  else if (merge.beta != T{0})
    value = hn::MulAdd(hn::Set(d, merge.beta), hn::LoadU(d, target), value);
  hn::StoreU(value, d, target);
}

// Elements between the rows of A in a tile that is not interleaved: a constant, so that all rows are reached from one
// address, and odd in cache lines, so that they fall into different sets. A tile is at most kRowLd deep.
inline constexpr std::int64_t kRowLd = kGemmDepth + 16;

/// C [kMicroRows, kMicroColumns] from A, interleaved [k, kMicroRows] or as rows [kMicroRows, kRowLd], and B [k,
/// kMicroColumns].
template <class T, bool kInterleavedA, std::size_t... kRow>
HWY_INLINE void micro_tile_impl(std::index_sequence<kRow...>, std::int64_t k, const T* HWY_RESTRICT a,
                                const T* HWY_RESTRICT b, T* HWY_RESTRICT c, std::int64_t ldc, Merge<T> merge) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  constexpr std::int64_t kLanes = kMicroColumns<T> / 2;
  V left[sizeof...(kRow)] = {((void)kRow, hn::Zero(d))...};
  V right[sizeof...(kRow)] = {((void)kRow, hn::Zero(d))...};
  for (std::int64_t p = 0; p < k; ++p) {
    const V b_left = hn::Load(d, b), b_right = hn::Load(d, b + kLanes);
    const auto step = [&](V& l, V& r, const T* element) HWY_ATTR {
      const V broadcast = hn::Set(d, *element);
      l = hn::MulAdd(broadcast, b_left, l);
      r = hn::MulAdd(broadcast, b_right, r);
    };
    if constexpr (kInterleavedA) {
      (step(left[kRow], right[kRow], a + kRow), ...);
      a += sizeof...(kRow);
    } else {
      (step(left[kRow], right[kRow], a + static_cast<std::int64_t>(kRow) * kRowLd), ...);
      ++a;
    }
    b += kMicroColumns<T>;
  }
  ((merge_into(d, merge, left[kRow], c + static_cast<std::int64_t>(kRow) * ldc),
    merge_into(d, merge, right[kRow], c + static_cast<std::int64_t>(kRow) * ldc + kLanes)),
   ...);
}

/// A is packed [k, kMicroRows] (interleaved) or [kMicroRows, kRowLd], B [k, kMicroColumns]; B is 64-byte aligned.
template <class T, bool kInterleavedA>
HWY_NOINLINE void micro_tile(std::int64_t k, const T* a, const T* b, T* c, std::int64_t ldc, Merge<T> merge) {
  micro_tile_impl<T, kInterleavedA>(std::make_index_sequence<kMicroRows>(), k, a, b, c, ldc, merge);
}

/// The first `count` of each of k rows, `ld` apart, packed [k, kPacked] with zeros behind.
template <std::int64_t kPacked, class T>
void pack_columns(std::int64_t k, std::int64_t count, const T* source, std::int64_t ld, T* packed) {
  if (count == kPacked) {
    for (std::int64_t p = 0; p < k; ++p) std::copy_n(source + p * ld, kPacked, packed + p * kPacked);
    return;
  }
  for (std::int64_t p = 0; p < k; ++p, packed += kPacked) {
    std::copy_n(source + p * ld, count, packed);
    std::fill(packed + count, packed + kPacked, T{0});
  }
}

#if HWY_TARGET == HWY_SCALAR
template <class T>
inline constexpr std::int64_t kTransposeBlock = 1;
template <class T>
HWY_INLINE void transpose_block(const T* source, std::int64_t, T* target, std::int64_t) {
  *target = *source;
}
#else
template <class T>
inline constexpr std::int64_t kTransposeBlock = 16 / sizeof(T);
/// Rows of 16 bytes become columns: target[q * stride + r] = source[r * ld + q] for r, q < kTransposeBlock.
template <class T>
HWY_INLINE void transpose_block(const T* source, std::int64_t ld, T* target, std::int64_t stride) {
  const hn::CappedTag<T, 16 / sizeof(T)> d;
  if constexpr (sizeof(T) == 4) {
    const auto r0 = hn::LoadU(d, source), r1 = hn::LoadU(d, source + ld), r2 = hn::LoadU(d, source + 2 * ld),
               r3 = hn::LoadU(d, source + 3 * ld);
    const auto low02 = hn::InterleaveLower(d, r0, r2), high02 = hn::InterleaveUpper(d, r0, r2);
    const auto low13 = hn::InterleaveLower(d, r1, r3), high13 = hn::InterleaveUpper(d, r1, r3);
    hn::StoreU(hn::InterleaveLower(d, low02, low13), d, target);
    hn::StoreU(hn::InterleaveUpper(d, low02, low13), d, target + stride);
    hn::StoreU(hn::InterleaveLower(d, high02, high13), d, target + 2 * stride);
    hn::StoreU(hn::InterleaveUpper(d, high02, high13), d, target + 3 * stride);
  } else {
    const auto r0 = hn::LoadU(d, source), r1 = hn::LoadU(d, source + ld);
    hn::StoreU(hn::InterleaveLower(d, r0, r1), d, target);
    hn::StoreU(hn::InterleaveUpper(d, r0, r1), d, target + stride);
  }
}

/// 16 bytes of every fourth row, from `source` on, a block of them a row.
template <class D, class T>
HWY_INLINE hn::Vec<D> blocks_of_rows(D d, const T* source, std::int64_t ld) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return hn::BitCast(d, hn::LoadU(hn::Repartition<T, D>(), source));
  } else {
    const hn::Half<D> half;
    constexpr auto kRows = static_cast<std::int64_t>(hn::MaxLanes(D()) / 2);
    return hn::Combine(d, blocks_of_rows(half, source + kRows * ld, ld), blocks_of_rows(half, source, ld));
  }
}

/// turned[q] = the q-th 32 bits of as many rows as a vector of `d` has lanes, q < 4; ld: elements of T between rows.
template <class D, class T>
HWY_INLINE void turn_rows(D d, const T* source, std::int64_t ld, hn::Vec<D>* turned) {
  const auto r0 = blocks_of_rows(d, source, ld), r1 = blocks_of_rows(d, source + ld, ld),
             r2 = blocks_of_rows(d, source + 2 * ld, ld), r3 = blocks_of_rows(d, source + 3 * ld, ld);
  const auto low02 = hn::InterleaveLower(d, r0, r2), high02 = hn::InterleaveUpper(d, r0, r2),
             low13 = hn::InterleaveLower(d, r1, r3), high13 = hn::InterleaveUpper(d, r1, r3);
  turned[0] = hn::InterleaveLower(d, low02, low13);
  turned[1] = hn::InterleaveUpper(d, low02, low13);
  turned[2] = hn::InterleaveLower(d, high02, high13);
  turned[3] = hn::InterleaveUpper(d, high02, high13);
}
#endif

/// `count` rows of k elements, `ld` apart, packed [k, kPacked] (a transpose) with zeros behind.
template <std::int64_t kPacked, class T>
void pack_rows(std::int64_t k, std::int64_t count, const T* source, std::int64_t ld, T* packed) {
  constexpr std::int64_t kBlock = kTransposeBlock<T>, kStrip = 16;
  const std::int64_t whole_rows = count / kBlock * kBlock;
  // Strips of k keep the cache lines being written in reach.
  for (std::int64_t s = 0; s < k; s += kStrip) {
    const std::int64_t end = std::min(k, s + kStrip), whole_end = s + (end - s) / kBlock * kBlock;
    for (std::int64_t i = 0; i < whole_rows; i += kBlock) {
      for (std::int64_t p = s; p < whole_end; p += kBlock)
        transpose_block(source + i * ld + p, ld, packed + p * kPacked + i, kPacked);
      for (std::int64_t r = i; r < i + kBlock; ++r)
        for (std::int64_t p = whole_end; p < end; ++p) packed[p * kPacked + r] = source[r * ld + p];
    }
    for (std::int64_t i = whole_rows; i < count; ++i)
      for (std::int64_t p = s; p < end; ++p) packed[p * kPacked + i] = source[i * ld + p];
    for (std::int64_t p = s; p < end; ++p) std::fill(packed + p * kPacked + count, packed + (p + 1) * kPacked, T{0});
  }
}

}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
