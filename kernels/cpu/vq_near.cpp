#include "kernels/cpu/vq_near.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

// Targets without a fused multiply-add share the plain code; AVX3_DL adds nothing these loops use.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/vq_near.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/vq-inl.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::vq {
namespace HWY_NAMESPACE {

#if HWY_NATIVE_FMA
constexpr std::int64_t kBatch = 1024;  // points whose centroids in reach are listed once
constexpr std::int64_t kBins = 16;     // by which the points of a cell are ordered
// Below it squares are too coarse to tell anything by.
constexpr float kLeastGap2 = 1e-30F;
// What a squared gap or a bound made of it is rounded by, and more.
constexpr float kRounding = 1e-5F;

// sum (x - c)^2 with the bits of nearest_block's distance2.
template <int D>
HWY_INLINE float squared_gap(const float* HWY_RESTRICT x, const float* HWY_RESTRICT c) {
  float sum = 0;
#pragma GCC unroll 8
  for (int d = 0; d < D; ++d) {
    const float gap = x[d] - c[d];
    sum = std::fma(gap, gap, sum);
  }
  return sum;
}

// With r = |c|, g = |c - c'|, s = r + g >= |c'|, a point at most u from c prefers c to c' for certain where
//   g^2 - 2 g u > 2 (errors of two scores), which are together at most
//   alpha (s^2 / 2 + (r + u) s), alpha = 4 (dim + 1) 2^-24.
struct Reach {
  float alpha, r;

  Reach(int dim, const float* c) : alpha(static_cast<float>(4 * (dim + 1)) * 0x1.2p-24F) {
    double norm2 = 0;
    for (int d = 0; d < dim; ++d) norm2 += static_cast<double>(c[d]) * static_cast<double>(c[d]);
    r = static_cast<float>(std::sqrt(norm2));
  }
  // Squared gaps above this are out of reach of points with u^2 <= u2: the larger root of the quadratic in g.
  float bound2(float u2) const {
    const double e = static_cast<double>(alpha), norm = static_cast<double>(r), u = std::sqrt(static_cast<double>(u2));
    const double a = 1 - e / 2, b = 2 * u + e * (2 * norm + u), c = e * norm * (1.5 * norm + u);
    const double g = (b + std::sqrt(b * b + 4 * a * c)) / (2 * a);
    return std::max(kLeastGap2, static_cast<float>(g * g) * (1 + 4 * kRounding));
  }
  // In place of each squared gap: u^2 below which points need not look at the centroid; -1: all must.
  HWY_INLINE void limits(std::int64_t n, float* gap2) const {
    const Tag tag;
    const Vector radius = hn::Set(tag, r), error = hn::Set(tag, alpha), half = hn::Set(tag, 0.5F);
    for (std::int64_t i = 0; i < n; i += kLanes) {
      const Vector g2 = hn::LoadU(tag, gap2 + i), g = hn::Sqrt(g2), s = hn::Add(radius, g);
      const Vector lost = hn::Mul(hn::Mul(error, s), hn::MulAdd(half, s, radius));
      const Vector room = hn::Sub(hn::Mul(g2, hn::Set(tag, 1 - 4 * kRounding)), lost);
      const Vector u = hn::Div(room, hn::Add(hn::Add(g, g), hn::Mul(error, s)));
      const auto tells = hn::And(hn::Gt(room, hn::Zero(tag)), hn::Gt(g2, hn::Set(tag, kLeastGap2)));
      hn::StoreU(hn::IfThenElse(tells, hn::Mul(hn::Mul(u, u), hn::Set(tag, 1 - kRounding)), hn::Set(tag, -1.0F)), tag,
                 gap2 + i);
    }
  }
};

// Centroids with a squared gap to c of at most `bound2`, in order of index, and their gaps; returns how many.
template <int D>
HWY_INLINE std::int64_t list_reached(const NearBook& book, const float* HWY_RESTRICT c, float bound2,
                                     std::int32_t* HWY_RESTRICT reached, float* HWY_RESTRICT gap2) {
  const Tag tag;
  const IntTag int_tag;
  const Vector bound = hn::Set(tag, bound2);
  Vector own[D];
#pragma GCC unroll 8
  for (int d = 0; d < D; ++d) own[d] = hn::Set(tag, c[d]);
  std::int64_t count = 0;
  const float* HWY_RESTRICT panel = book.panels.data;
  for (std::int64_t i = 0; i < book.panels.count; ++i, panel += (D + 1) * kPanel)
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      Vector sum = hn::Zero(tag);
#pragma GCC unroll 8
      for (int d = 0; d < D; ++d) {
        const Vector gap = hn::Sub(hn::Load(tag, panel + d * kPanel + part * kLanes), own[d]);
        sum = hn::MulAdd(gap, gap, sum);
      }
      const auto near = hn::Le(sum, bound);
      if (hn::AllFalse(tag, near)) continue;
      const IntVector id = hn::Iota(int_tag, static_cast<std::int32_t>(i * kPanel + part * kLanes));
      hn::StoreU(hn::Compress(sum, near), tag, gap2 + count);
      hn::StoreU(hn::Compress(id, hn::RebindMask(int_tag, near)), int_tag, reached + count);
      count += static_cast<std::int64_t>(hn::CountTrue(tag, near));
    }
  // The surplus lanes of the last panel.
  while (count > 0 && reached[count - 1] >= book.panels.k) --count;
  return count;
}

// Those of them whose limit is not above u2.
HWY_INLINE std::int64_t keep_needed(std::int64_t n, const std::int32_t* HWY_RESTRICT reached,
                                    const float* HWY_RESTRICT limit2, float u2, std::int32_t* HWY_RESTRICT kept) {
  const Tag tag;
  const IntTag int_tag;
  const Vector most = hn::Set(tag, u2);
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const auto used = hn::FirstN(tag, static_cast<std::size_t>(std::min(kLanes, n - i)));
    const auto needed = hn::And(hn::Le(hn::LoadU(tag, limit2 + i), most), used);
    hn::StoreU(hn::Compress(hn::LoadU(int_tag, reached + i), hn::RebindMask(int_tag, needed)), int_tag, kept + count);
    count += static_cast<std::int64_t>(hn::CountTrue(tag, needed));
  }
  return count;
}

// The points of a range, cell after cell, in a cell from small gaps to large ones, roughly.
template <int D>
class SortedPoints {
 public:
  std::vector<std::int64_t> cell_begin;  // [cells + 1]
  std::vector<std::int32_t> ids;
  std::vector<float> points;  // [n + kPanel, D]
  std::vector<float> gap2;    // [n + kPanel], to the centroid of the cell

  SortedPoints(const NearBook& book, const NearRange& range, const float* from, const std::int32_t* index) {
    const std::int64_t cells = range.last - range.first;
    if (cells == book.panels.k) {
      fill(book, range, from, index, range.end - range.begin,
           [&](std::size_t i) { return static_cast<std::int32_t>(range.begin) + static_cast<std::int32_t>(i); });
      return;
    }
    std::vector<std::int32_t> members;
    for (std::int64_t i = range.begin; i < range.end; ++i)
      if (static_cast<std::uint64_t>(index[i] - range.first) < static_cast<std::uint64_t>(cells))
        members.push_back(static_cast<std::int32_t>(i));
    fill(book, range, from, index, static_cast<std::int64_t>(members.size()),
         [&](std::size_t i) { return members[i]; });
  }

 private:
  // member(i): the i-th of `count` points of the range.
  template <class Member>
  void fill(const NearBook& book, const NearRange& range, const float* from, const std::int32_t* index,
            std::int64_t count, const Member& member) {
    const auto n = static_cast<std::size_t>(count);
    // Gaps in the order of memory, and how wide a bin is.
    std::vector<float> gaps(n + static_cast<std::size_t>(kPanel));
    for (std::size_t i = 0; i < n; ++i)
      gaps[i] = squared_gap<D>(from + static_cast<std::int64_t>(member(i)) * D,
                               book.rows + static_cast<std::int64_t>(index[member(i)]) * (D + 1));
    const Tag tag;
    Vector sum = hn::Zero(tag);
    for (std::int64_t i = 0; i < count; i += kLanes) sum = hn::Add(sum, hn::LoadU(tag, gaps.data() + i));
    const float total = hn::GetLane(hn::SumOfLanes(tag, sum));
    const float scale = total > kLeastGap2 ? static_cast<float>(kBins) * static_cast<float>(count) / (3 * total) : 0.0F;
    const std::int64_t cells = range.last - range.first;
    std::vector<std::int32_t> keys(n), next(static_cast<std::size_t>(cells * kBins + 1));
    for (std::size_t i = 0; i < n; ++i) {
      const float bin = std::min(gaps[i] * scale, static_cast<float>(kBins - 1));
      keys[i] = (index[member(i)] - static_cast<std::int32_t>(range.first)) * static_cast<std::int32_t>(kBins) +
                static_cast<std::int32_t>(bin);
      ++next[static_cast<std::size_t>(keys[i] + 1)];
    }
    for (std::size_t key = 1; key < next.size(); ++key) next[key] += next[key - 1];
    for (std::int64_t cell = 0; cell <= cells; ++cell)
      cell_begin.push_back(next[static_cast<std::size_t>(cell * kBins)]);
    ids.resize(n);
    points.resize((n + static_cast<std::size_t>(kPanel)) * D);
    gap2.resize(n + static_cast<std::size_t>(kPanel));
    for (std::size_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(next[static_cast<std::size_t>(keys[i])]++);
      ids[at] = member(i);
      gap2[at] = gaps[i];
      std::copy_n(from + static_cast<std::int64_t>(member(i)) * D, D,
                  points.begin() + static_cast<std::ptrdiff_t>(at * D));
    }
  }
};

/// Room for the centroids in reach of a cell.
struct NearWork {
  explicit NearWork(std::int64_t k)
      : reached(static_cast<std::size_t>(k + 2 * kPanel)), kept(reached.size()), gap2(reached.size()) {}
  std::vector<std::int32_t> reached, kept;
  std::vector<float> gap2;
};

// The m <= kBatch points of a cell from `first` on.
template <int D>
void search_batch(const NearBook& book, const SortedPoints<D>& sorted, std::int64_t first, std::int64_t m,
                  std::int32_t cell, NearWork& work, std::int32_t* HWY_RESTRICT found, float* HWY_RESTRICT distance2) {
  const Tag tag;
  const IntTag int_tag;
  const float* HWY_RESTRICT c = book.rows + static_cast<std::int64_t>(cell) * (D + 1);
  const float* HWY_RESTRICT gap2 = sorted.gap2.data() + first;
  const float* HWY_RESTRICT points = sorted.points.data() + first * D;
  const std::int32_t* HWY_RESTRICT ids = sorted.ids.data() + first;
  const Reach reach(D, c);
  const std::int64_t reached =
      list_reached<D>(book, c, reach.bound2(*std::max_element(gap2, gap2 + m)), work.reached.data(), work.gap2.data());
  reach.limits(reached, work.gap2.data());
  for (std::int64_t g = 0; g < m; g += kLanes) {
    const std::int64_t n = std::min(kLanes, m - g);
    // Lanes past the n are other points, whose results are not used.
    alignas(64) float xt[D][kPanel];
    for (std::int64_t i = 0; i < kLanes; ++i)
#pragma GCC unroll 8
      for (int d = 0; d < D; ++d) xt[d][i] = points[(g + i) * D + d];
    const auto used = hn::FirstN(tag, static_cast<std::size_t>(n));
    const float most = hn::GetLane(hn::MaxOfLanes(tag, hn::IfThenElseZero(used, hn::LoadU(tag, gap2 + g))));
    const std::int64_t kept = keep_needed(reached, work.reached.data(), work.gap2.data(), most, work.kept.data());
    Vector x[D], best = hn::Set(tag, std::numeric_limits<float>::infinity());
    IntVector where = hn::Set(int_tag, cell);
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) x[d] = hn::Load(tag, xt[d]);
    const std::int32_t* HWY_RESTRICT candidate = work.kept.data();
    for (std::int64_t i = 0; i < kept; ++i) {
      const float* HWY_RESTRICT row = book.rows + static_cast<std::int64_t>(candidate[i]) * (D + 1);
      Vector s = hn::Set(tag, row[D]);
#pragma GCC unroll 8
      for (int d = 0; d < D; ++d) s = hn::NegMulAdd(x[d], hn::Set(tag, row[d]), s);
      const auto better = hn::Lt(s, best);
      best = hn::Min(s, best);
      where = hn::IfThenElse(hn::RebindMask(int_tag, better), hn::Set(int_tag, candidate[i]), where);
    }
    alignas(64) std::int32_t chosen[kPanel];
    hn::Store(where, int_tag, chosen);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int32_t id = ids[g + i];
      found[id] = chosen[i];
      distance2[id] = chosen[i] == cell ? gap2[g + i]
                                        : squared_gap<D>(points + (g + i) * D,
                                                         book.rows + static_cast<std::int64_t>(chosen[i]) * (D + 1));
    }
  }
}

template <int D>
void search_near_of(const NearBook& book, const NearRange& range, const float* points, const std::int32_t* index,
                    std::int32_t* found, float* distance2) {
  const SortedPoints<D> sorted(book, range, points, index);
  NearWork work(book.panels.k);
  for (std::int64_t cell = 0; cell < range.last - range.first; ++cell) {
    const std::int64_t end = sorted.cell_begin[static_cast<std::size_t>(cell + 1)];
    for (std::int64_t begin = sorted.cell_begin[static_cast<std::size_t>(cell)]; begin < end; begin += kBatch)
      search_batch<D>(book, sorted, begin, std::min(kBatch, end - begin), static_cast<std::int32_t>(range.first + cell),
                      work, found, distance2);
  }
}

void search_near_simd(const NearBook& book, const NearRange& range, const float* points, const std::int32_t* index,
                      std::int32_t* found, float* distance2) {
  with_dim(book.panels.dim, [&](auto dim) {
    constexpr int D = decltype(dim)::value;
    if constexpr (D > 0) search_near_of<D>(book, range, points, index, found, distance2);
  });
}

#else   // HWY_NATIVE_FMA

void search_near_simd(const NearBook& book, const NearRange& range, const float* points, const std::int32_t* index,
                      std::int32_t* found, float* distance2) {
  for (std::int64_t i = range.begin; i < range.end; ++i)
    if (index[i] >= range.first && index[i] < range.last)
      nearest_block(book.panels, 1, points + i * book.panels.dim, found + i, distance2 + i);
}
#endif  // HWY_NATIVE_FMA

}  // namespace HWY_NAMESPACE
}  // namespace voronoi::kernels::vq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels::vq {

HWY_EXPORT(search_near_simd);

void search_near(const NearBook& book, const NearRange& range, const float* points, const std::int32_t* index,
                 std::int32_t* found, float* distance2) {
  HWY_DYNAMIC_DISPATCH(search_near_simd)(book, range, points, index, found, distance2);
}

}  // namespace voronoi::kernels::vq
#endif  // HWY_ONCE
