#include "kernels/host_search.h"

#include <cmath>
#include <limits>

#include "core/error.h"

// Targets without a fused multiply-add share the plain code; AVX3_DL adds nothing these loops use.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/host_search.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::host_search {
namespace HWY_NAMESPACE {

#if HWY_NATIVE_FMA
namespace hn = hwy::HWY_NAMESPACE;
using Tag = hn::CappedTag<float, static_cast<std::size_t>(kHostLanes)>;
using IntTag = hn::RebindToSigned<Tag>;
constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(Tag()));

/// P vectors of points, whose values, best scores and their places stay in registers.
template <int D, int P>
HWY_INLINE void search(const float* HWY_RESTRICT x, std::int64_t stride, std::int64_t k, const float* HWY_RESTRICT book,
                       std::int32_t* HWY_RESTRICT index) {
  const Tag tag;
  const IntTag int_tag;
  hn::Vec<Tag> point[D][P], best[P];
  hn::Vec<IntTag> where[P];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int d = 0; d < D; ++d) point[d][p] = hn::LoadU(tag, x + d * stride + p * kLanes);
    best[p] = hn::Set(tag, std::numeric_limits<float>::infinity());
    where[p] = hn::Zero(int_tag);
  }
  for (std::int64_t j = 0; j < k; ++j) {
    const auto half = hn::Set(tag, book[D * k + j]);
    const auto here = hn::Set(int_tag, static_cast<std::int32_t>(j));
    hn::Vec<Tag> score[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) score[p] = half;
#pragma GCC unroll 16
    for (int d = 0; d < D; ++d) {
      const auto value = hn::Set(tag, book[d * k + j]);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) score[p] = hn::NegMulAdd(point[d][p], value, score[p]);
    }
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const auto better = hn::Lt(score[p], best[p]);
      best[p] = hn::Min(score[p], best[p]);
      where[p] = hn::IfThenElse(hn::RebindMask(int_tag, better), here, where[p]);
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) hn::StoreU(where[p], int_tag, index + p * kLanes);
}

template <int D>
void search_all(std::int64_t n, const float* x, std::int64_t stride, std::int64_t k, const float* book,
                std::int32_t* index) {
  // Of the registers: 32, or 16 with narrower vectors.
  constexpr int P = D == 16 ? 1 : D == 8 ? (HWY_TARGET == HWY_AVX3 ? 2 : 1) : HWY_TARGET == HWY_AVX3 ? 4 : 2;
  std::int64_t i = 0;
  for (; i + P * kLanes <= n; i += P * kLanes) search<D, P>(x + i, stride, k, book, index + i);
  for (; i < n; i += kLanes) search<D, 1>(x + i, stride, k, book, index + i);
}
#else   // HWY_NATIVE_FMA
template <int D>
void search_all(std::int64_t n, const float* x, std::int64_t stride, std::int64_t k, const float* book,
                std::int32_t* index) {
  for (std::int64_t i = 0; i < n; ++i) {
    float best = std::numeric_limits<float>::infinity();
    index[i] = 0;
    for (std::int64_t j = 0; j < k; ++j) {
      float score = book[D * k + j];
      for (int d = 0; d < D; ++d) score = std::fma(-x[d * stride + i], book[d * k + j], score);
      if (!(score < best)) continue;
      best = score;
      index[i] = static_cast<std::int32_t>(j);
    }
  }
}
#endif  // HWY_NATIVE_FMA

void search_of(std::int64_t n, std::int64_t dim, const float* x, std::int64_t stride, std::int64_t k, const float* book,
               std::int32_t* index) {
  switch (dim) {
    case 1:
      return search_all<1>(n, x, stride, k, book, index);
    case 2:
      return search_all<2>(n, x, stride, k, book, index);
    case 4:
      return search_all<4>(n, x, stride, k, book, index);
    case 8:
      return search_all<8>(n, x, stride, k, book, index);
    default:
      return search_all<16>(n, x, stride, k, book, index);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace voronoi::kernels::host_search
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {
namespace host_search {
HWY_EXPORT(search_of);
}

void nearest_by_column(std::int64_t n, std::int64_t dim, const float* x, std::int64_t stride, std::int64_t k,
                       const float* book, std::int32_t* index) {
  VORONOI_REQUIRE(dim == 1 || dim == 2 || dim == 4 || dim == 8 || dim == 16,
                  "nearest_by_column: points of 1, 2, 4, 8 or 16 values");
  VORONOI_REQUIRE(n >= 0 && host_lanes(n) <= stride && k >= 1, "nearest_by_column: columns shorter than their points");
  using namespace host_search;
  HWY_DYNAMIC_DISPATCH(search_of)(host_lanes(n), dim, x, stride, k, book, index);
}

}  // namespace voronoi::kernels
#endif  // HWY_ONCE
