#include "kernels/cpu/vq_simd.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

// Targets without a fused multiply-add share the plain code; AVX3_DL adds nothing these loops use.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/vq_simd.cpp"
#include "hwy/aligned_allocator.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/vq-inl.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::vq {
namespace HWY_NAMESPACE {

// Points [begin, n) of a block of potentials, one by one; begin is a multiple of kPanel.
HWY_INLINE void potentials_tail(std::int64_t begin, std::int64_t n, std::int64_t dim, const float* columns,
                                std::int64_t stride, const float* weights, float* distance2, const float* c,
                                bool update, float* parts) {
  for (std::int64_t i = begin; i < n; ++i) {
    float gap2 = 0;
    for (std::int64_t d = 0; d < dim; ++d) {
      const float gap = columns[d * stride + i] - c[d];
      gap2 = std::fma(gap, gap, gap2);
    }
    const float low = std::min(gap2, distance2[i]);
    if (update) distance2[i] = low;
    parts[i % kPanel] = std::fma(weights[i], low, parts[i % kPanel]);
  }
}

HWY_INLINE double merge_parts(const float* parts) {
  double sum = 0;
  for (std::int64_t i = 0; i < kPanel; ++i) sum += static_cast<double>(parts[i]);
  return sum;
}

#if HWY_NATIVE_FMA
constexpr std::int64_t kRegisters = HWY_TARGET == HWY_AVX3 ? 32 : 16;
// Panels scanned over a whole block of points before the next ones: they stay in L1 beside the points.
constexpr std::int64_t kTileFloats = 4096;

// x of D dimensions in registers for P vectors of points: D * P of them, P bests, P scores, one broadcast.
template <int D>
constexpr int point_vectors() {
  const int fit = static_cast<int>((kRegisters - 2) / (D + 2));
  return std::clamp(fit, 1, 4);
}

// Lowest score of each of P vectors of points over panels [begin, end); the panel that holds it is kept, not the
// centroid: one compare a panel instead of one a centroid. xt: [D][stride].
template <int D, int P>
HWY_INLINE void scan(const Panels& panels, std::int64_t begin, std::int64_t end, const float* HWY_RESTRICT xt,
                     std::int64_t stride, float* HWY_RESTRICT best_score, std::int32_t* HWY_RESTRICT best_panel) {
  const Tag tag;
  const IntTag int_tag;
  Vector x[D][P], best[P];
  IntVector where[P];
#pragma GCC unroll 16
  for (int d = 0; d < D; ++d)
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) x[d][p] = hn::Load(tag, xt + d * stride + p * kLanes);
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
    best[p] = hn::Load(tag, best_score + p * kLanes);
    where[p] = hn::Load(int_tag, best_panel + p * kLanes);
  }
  const float* HWY_RESTRICT c = panels.data + begin * (D + 1) * kPanel;
  for (std::int64_t i = begin; i < end; ++i, c += (D + 1) * kPanel) {
    Vector low[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) low[p] = hn::Set(tag, std::numeric_limits<float>::infinity());
#pragma GCC unroll 1
    for (int j = 0; j < static_cast<int>(kPanel); ++j) {
      Vector s[P];
      const Vector half = hn::Set(tag, c[D * kPanel + j]);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) s[p] = half;
#pragma GCC unroll 16
      for (int d = 0; d < D; ++d) {
        const Vector value = hn::Set(tag, c[d * kPanel + j]);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) s[p] = hn::NegMulAdd(x[d][p], value, s[p]);
      }
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) low[p] = hn::Min(low[p], s[p]);
    }
    const IntVector here = hn::Set(int_tag, static_cast<std::int32_t>(i));
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const auto better = hn::Lt(low[p], best[p]);
      best[p] = hn::IfThenElse(better, low[p], best[p]);
      where[p] = hn::IfThenElse(hn::RebindMask(int_tag, better), here, where[p]);
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
    hn::Store(best[p], tag, best_score + p * kLanes);
    hn::Store(where[p], int_tag, best_panel + p * kLanes);
  }
}

// The same for any dim: x stays in memory, P x kTogether scores are in registers.
template <int P>
HWY_INLINE void scan_any(const Panels& panels, std::int64_t begin, std::int64_t end, const float* HWY_RESTRICT xt,
                         std::int64_t stride, float* HWY_RESTRICT best_score, std::int32_t* HWY_RESTRICT best_panel) {
  constexpr int kTogether = 4;
  const Tag tag;
  const IntTag int_tag;
  const std::int64_t dim = panels.dim;
  for (std::int64_t i = begin; i < end; ++i) {
    const float* HWY_RESTRICT c = panels.panel(i);
    Vector low[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) low[p] = hn::Set(tag, std::numeric_limits<float>::infinity());
#pragma GCC unroll 1
    for (int j = 0; j < static_cast<int>(kPanel); j += kTogether) {
      Vector s[kTogether][P];
#pragma GCC unroll 16
      for (int t = 0; t < kTogether; ++t)
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) s[t][p] = hn::Set(tag, c[dim * kPanel + j + t]);
#pragma GCC unroll 1
      for (std::int64_t d = 0; d < dim; ++d) {
        Vector x[P];
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) x[p] = hn::Load(tag, xt + d * stride + p * kLanes);
#pragma GCC unroll 16
        for (int t = 0; t < kTogether; ++t) {
          const Vector value = hn::Set(tag, c[d * kPanel + j + t]);
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) s[t][p] = hn::NegMulAdd(x[p], value, s[t][p]);
        }
      }
#pragma GCC unroll 16
      for (int t = 0; t < kTogether; ++t)
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) low[p] = hn::Min(low[p], s[t][p]);
    }
    const IntVector here = hn::Set(int_tag, static_cast<std::int32_t>(i));
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const Vector best = hn::Load(tag, best_score + p * kLanes);
      const IntVector where = hn::Load(int_tag, best_panel + p * kLanes);
      const auto better = hn::Lt(low[p], best);
      hn::Store(hn::IfThenElse(better, low[p], best), tag, best_score + p * kLanes);
      hn::Store(hn::IfThenElse(hn::RebindMask(int_tag, better), here, where), int_tag, best_panel + p * kLanes);
    }
  }
}

/// scan or scan_any over `vectors` vectors of points, P at a time and the rest in one piece.
template <int D, int P>
HWY_INLINE void scan_vectors(const Panels& panels, std::int64_t begin, std::int64_t end, std::int64_t vectors,
                             const float* xt, std::int64_t stride, float* best_score, std::int32_t* best_panel) {
  for (; vectors >= P; vectors -= P) {
    if constexpr (D > 0)
      scan<D, P>(panels, begin, end, xt, stride, best_score, best_panel);
    else
      scan_any<P>(panels, begin, end, xt, stride, best_score, best_panel);
    xt += P * kLanes;
    best_score += P * kLanes;
    best_panel += P * kLanes;
  }
  if constexpr (P > 1)
    if (vectors > 0) scan_vectors<D, P - 1>(panels, begin, end, vectors, xt, stride, best_score, best_panel);
}

// Second look: the first centroid of the winning panel whose score is the winning one.
template <int D>
HWY_INLINE void find_in_panels(const Panels& panels, std::int64_t n, const float* HWY_RESTRICT points,
                               const float* HWY_RESTRICT score, const std::int32_t* HWY_RESTRICT panel,
                               std::int32_t* HWY_RESTRICT index, float* HWY_RESTRICT distance2) {
  const Tag tag;
  const hn::CappedTag<float, 1> one;
  const std::int64_t dim = D > 0 ? D : panels.dim;
  for (std::int64_t i = 0; i < n; ++i) {
    const float* HWY_RESTRICT x = points + i * dim;
    const float* HWY_RESTRICT c = panels.panel(panel[i]);
    const Vector wanted = hn::Set(tag, score[i]);
    std::uint32_t bits = 0;
    for (int part = 0; part < kParts; ++part)
      bits |= mask_bits(hn::Eq(panel_scores<D>(c, x, dim, part), wanted)) << (part * static_cast<int>(kLanes));
    // No bit: the point is not finite. Any valid index will do.
    const std::int64_t j = bits != 0 ? std::countr_zero(bits) : 0;
    index[i] = static_cast<std::int32_t>(panel[i] * kPanel + j);
    if (distance2 != nullptr) {
      auto sum = hn::Zero(one);
      for (std::int64_t d = 0; d < dim; ++d) {
        const auto gap = hn::Sub(hn::LoadU(one, x + d), hn::LoadU(one, c + d * kPanel + j));
        sum = hn::MulAdd(gap, gap, sum);
      }
      hn::StoreU(sum, one, distance2 + i);
    }
  }
}

template <int D>
HWY_INLINE void transpose(std::int64_t n, std::int64_t dim, const float* HWY_RESTRICT points, float* HWY_RESTRICT xt,
                          std::int64_t stride) {
  std::int64_t i = 0;
  if constexpr (D == 4) {
    const Tag tag;
    for (; i + kLanes <= n; i += kLanes) {
      Vector a, b, c, d;
      hn::LoadInterleaved4(tag, points + i * D, a, b, c, d);
      hn::Store(a, tag, xt + i);
      hn::Store(b, tag, xt + stride + i);
      hn::Store(c, tag, xt + 2 * stride + i);
      hn::Store(d, tag, xt + 3 * stride + i);
    }
  }
  const std::int64_t dims = D > 0 ? D : dim;
  for (; i < n; ++i)
    for (std::int64_t d = 0; d < dims; ++d) xt[d * stride + i] = points[i * dims + d];
}

template <int D>
void nearest_block_of(const Panels& panels, std::int64_t n, const float* points, std::int32_t* index,
                      float* distance2) {
  constexpr int P = D > 0 ? point_vectors<(D > 0 ? D : 1)>() : (kRegisters == 32 ? 4 : 2);
  const std::int64_t dim = panels.dim, padded = (n + kLanes - 1) / kLanes * kLanes;
  alignas(64) float registers_xt[D > 0 ? D * kBlockPoints : 1];
  const auto any_xt = hwy::AllocateAligned<float>(D > 0 ? 1 : static_cast<std::size_t>(dim * kBlockPoints));
  float* xt = D > 0 ? registers_xt : any_xt.get();
  alignas(64) float score[kBlockPoints];
  alignas(64) std::int32_t where[kBlockPoints];
  for (std::int64_t i = 0; i < padded; ++i) {
    score[i] = std::numeric_limits<float>::infinity();
    where[i] = 0;
  }
  for (std::int64_t d = 0; d < dim; ++d)
    for (std::int64_t i = n; i < padded; ++i) xt[d * kBlockPoints + i] = 0;
  transpose<D>(n, dim, points, xt, kBlockPoints);
  const std::int64_t tile = std::max<std::int64_t>(1, kTileFloats / ((dim + 1) * kPanel));
  for (std::int64_t begin = 0; begin < panels.count; begin += tile)
    scan_vectors<D, P>(panels, begin, std::min(panels.count, begin + tile), padded / kLanes, xt, kBlockPoints, score,
                       where);
  find_in_panels<D>(panels, n, points, score, where, index, distance2);
}

void nearest_block_simd(const Panels& panels, std::int64_t n, const float* points, std::int32_t* index,
                        float* distance2) {
  with_dim(panels.dim, [&](auto d) { nearest_block_of<decltype(d)::value>(panels, n, points, index, distance2); });
}

// 16 running sums whatever the width: point i goes to sum i % 16.
void potentials_block_simd(std::int64_t n, std::int64_t dim, const float* columns, std::int64_t stride,
                           const float* weights, float* distance2, std::int64_t n_candidates, const float* candidates,
                           bool update, double* sums) {
  const Tag tag;
  for (std::int64_t candidate = 0; candidate < n_candidates; ++candidate) {
    const float* c = candidates + candidate * dim;
    alignas(64) float parts[kPanel];
    Vector sum[kParts];
    for (int part = 0; part < kParts; ++part) sum[part] = hn::Zero(tag);
    const auto least = [&](std::int64_t i) HWY_ATTR {
      Vector gap2 = hn::Zero(tag);
      for (std::int64_t d = 0; d < dim; ++d) {
        const Vector gap = hn::Sub(hn::LoadU(tag, columns + d * stride + i), hn::Set(tag, c[d]));
        gap2 = hn::MulAdd(gap, gap, gap2);
      }
      return hn::Min(gap2, hn::LoadU(tag, distance2 + i));
    };
    std::int64_t i = 0;
    for (; i + kPanel <= n; i += kPanel) {
      for (int part = 0; part < kParts; ++part) {
        const Vector low = least(i + part * kLanes);
        if (update) hn::StoreU(low, tag, distance2 + i + part * kLanes);
        sum[part] = hn::MulAdd(hn::LoadU(tag, weights + i + part * kLanes), low, sum[part]);
      }
    }
    for (int part = 0; part < kParts; ++part) hn::Store(sum[part], tag, parts + part * kLanes);
    potentials_tail(i, n, dim, columns, stride, weights, distance2, c, update, parts);
    sums[candidate] = merge_parts(parts);
  }
}

#else   // HWY_NATIVE_FMA

void nearest_block_simd(const Panels& panels, std::int64_t n, const float* points, std::int32_t* index,
                        float* distance2) {
  for (std::int64_t i = 0; i < n; ++i) {
    float best = std::numeric_limits<float>::infinity();
    index[i] = 0;
    for (std::int64_t j = 0; j < panels.k; ++j) {
      const float s = plain_score(panels, points + i * panels.dim, j);
      if (!(s < best)) continue;
      best = s;
      index[i] = static_cast<std::int32_t>(j);
    }
    if (distance2 == nullptr) continue;
    const float* c = panels.panel(index[i] / kPanel) + index[i] % kPanel;
    float sum = 0;
    for (std::int64_t d = 0; d < panels.dim; ++d) {
      const float gap = points[i * panels.dim + d] - c[d * kPanel];
      sum = std::fma(gap, gap, sum);
    }
    distance2[i] = sum;
  }
}

void potentials_block_simd(std::int64_t n, std::int64_t dim, const float* columns, std::int64_t stride,
                           const float* weights, float* distance2, std::int64_t n_candidates, const float* candidates,
                           bool update, double* sums) {
  for (std::int64_t candidate = 0; candidate < n_candidates; ++candidate) {
    float parts[kPanel] = {};
    potentials_tail(0, n, dim, columns, stride, weights, distance2, candidates + candidate * dim, update, parts);
    sums[candidate] = merge_parts(parts);
  }
}
#endif  // HWY_NATIVE_FMA

// A product of two floats is exact in double, so fused or not the sums are the same.
template <int D>
HWY_INLINE void sums_of(std::int64_t n, std::int64_t dim, const float* HWY_RESTRICT points,
                        const float* HWY_RESTRICT weights, const std::int32_t* HWY_RESTRICT index,
                        double* HWY_RESTRICT sums, double* HWY_RESTRICT mass) {
  const std::int64_t dims = D > 0 ? D : dim;
  for (std::int64_t i = 0; i < n; ++i) {
    const double w = static_cast<double>(weights[i]);
    double* HWY_RESTRICT sum = sums + index[i] * dims;
    for (std::int64_t d = 0; d < dims; ++d) sum[d] += w * static_cast<double>(points[i * dims + d]);
    mass[index[i]] += w;
  }
}

void centroid_sums_simd(std::int64_t n, std::int64_t dim, const float* points, const float* weights,
                        const std::int32_t* index, double* sums, double* mass) {
  switch (dim) {
    case 4:
      return sums_of<4>(n, dim, points, weights, index, sums, mass);
    case 6:
      return sums_of<6>(n, dim, points, weights, index, sums, mass);
    case 8:
      return sums_of<8>(n, dim, points, weights, index, sums, mass);
    default:
      return sums_of<0>(n, dim, points, weights, index, sums, mass);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace voronoi::kernels::vq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels::vq {

HWY_EXPORT(nearest_block_simd);
HWY_EXPORT(centroid_sums_simd);
HWY_EXPORT(potentials_block_simd);

void nearest_block(const Panels& panels, std::int64_t n, const float* points, std::int32_t* index, float* distance2) {
  HWY_DYNAMIC_DISPATCH(nearest_block_simd)(panels, n, points, index, distance2);
}

void centroid_sums(std::int64_t n, std::int64_t dim, const float* points, const float* weights,
                   const std::int32_t* index, double* sums, double* mass) {
  HWY_DYNAMIC_DISPATCH(centroid_sums_simd)(n, dim, points, weights, index, sums, mass);
}

void potentials_block(std::int64_t n, std::int64_t dim, const float* columns, std::int64_t stride, const float* weights,
                      float* distance2, std::int64_t n_candidates, const float* candidates, bool update, double* sums) {
  HWY_DYNAMIC_DISPATCH(potentials_block_simd)
  (n, dim, columns, stride, weights, distance2, n_candidates, candidates, update, sums);
}

float squared_distance(std::int64_t dim, const float* x, const float* c) {
  float sum = 0;
  for (std::int64_t d = 0; d < dim; ++d) {
    const float gap = x[d] - c[d];
    sum = std::fma(gap, gap, sum);
  }
  return sum;
}

void limit_vector_bits(int bits) {
  hwy::SetSupportedTargetsForTest(0);
  const std::int64_t has = hwy::SupportedTargets();
  std::int64_t allowed = HWY_STATIC_TARGET;
  if (bits < 0 || bits >= 512) allowed |= HWY_AVX3;
  if (bits < 0 || bits >= 256) allowed |= HWY_AVX2;
  hwy::SetSupportedTargetsForTest(has & allowed);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace voronoi::kernels::vq
#endif  // HWY_ONCE
