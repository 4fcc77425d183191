#include <algorithm>
#include <bit>
#include <limits>

#include "kernels/cpu/vq_simd.h"

// Targets without a fused multiply-add share the plain code; AVX3_DL adds nothing these loops use.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/vq_nearest_m.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/vq-inl.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::vq {
namespace HWY_NAMESPACE {

// A point's lowest scores so far, rising; equal scores in order of index.
struct Leaders {
  std::int64_t count = 0;
  float score[kMaxNearest];
  std::int32_t index[kMaxNearest];

  void offer(std::int64_t m, float s, std::int32_t j) {
    if (count == m && !(s < score[m - 1])) return;
    std::int64_t at = count < m ? count++ : m - 1;
    for (; at > 0 && s < score[at - 1]; --at) {
      score[at] = score[at - 1];
      index[at] = index[at - 1];
    }
    score[at] = s;
    index[at] = j;
  }
};

#if HWY_NATIVE_FMA
// Panels whose scores of one point are kept at a time: 4 KiB of scores beside a tile of centroids.
constexpr std::int64_t kScorePanels = 64;

// The m-th smallest of the 16 lane minima bounds the m-th smallest of all scores from above (m lanes hold one such
// score each).
HWY_INLINE float lane_bound(const float* HWY_RESTRICT lows, std::int64_t m) {
  const Tag tag;
  Vector bound = hn::Set(tag, std::numeric_limits<float>::infinity());
  const Vector wanted = hn::Set(tag, static_cast<float>(m));
  const Vector unit = hn::Set(tag, 1.0F), none = hn::Zero(tag);
  for (int part = 0; part < kParts; ++part) {
    const Vector low = hn::Load(tag, lows + part * kLanes);
    Vector not_above[4] = {none, none, none, none};
#pragma GCC unroll 16
    for (int lane = 0; lane < static_cast<int>(kPanel); ++lane)
      not_above[lane % 4] =
          hn::Add(not_above[lane % 4], hn::IfThenElseZero(hn::Le(hn::Set(tag, lows[lane]), low), unit));
    const Vector count = hn::Add(hn::Add(not_above[0], not_above[1]), hn::Add(not_above[2], not_above[3]));
    bound = hn::Min(bound, hn::IfThenElse(hn::Ge(count, wanted), low, bound));
  }
  return hn::GetLane(hn::MinOfLanes(tag, bound));
}

// Sorts up to kPanel candidates that stand in order of index: the rank of each is the number of those before it. No
// branch depends on the scores.
HWY_INLINE void rank_candidates(std::int64_t count, float* HWY_RESTRICT score, const std::int32_t* HWY_RESTRICT from,
                                std::int64_t m, std::int32_t* HWY_RESTRICT index) {
  const Tag tag;
  const IntTag int_tag;
  const Vector infinite = hn::Set(tag, std::numeric_limits<float>::infinity());
  for (int part = 0; part < kParts; ++part) {
    const auto used =
        hn::FirstN(tag, static_cast<std::size_t>(std::clamp<std::int64_t>(count - part * kLanes, 0, kLanes)));
    hn::Store(hn::IfThenElse(used, hn::Load(tag, score + part * kLanes), infinite), tag, score + part * kLanes);
  }
  alignas(64) std::int32_t ranks[kPanel], sorted[kPanel];
  const IntVector unit = hn::Set(int_tag, 1);
  for (int part = 0; part < kParts; ++part) {
    const Vector own = hn::Load(tag, score + part * kLanes);
    const IntVector place = hn::Iota(int_tag, static_cast<std::int32_t>(part * kLanes));
    IntVector rank[2] = {hn::Zero(int_tag), hn::Zero(int_tag)};
#pragma GCC unroll 16
    for (int i = 0; i < static_cast<int>(kPanel); ++i) {
      const Vector other = hn::Set(tag, score[i]);
      const auto later = hn::RebindMask(tag, hn::Gt(place, hn::Set(int_tag, i)));
      const auto before = hn::Or(hn::Lt(other, own), hn::And(hn::Eq(other, own), later));
      rank[i % 2] = hn::Add(rank[i % 2], hn::IfThenElseZero(hn::RebindMask(int_tag, before), unit));
    }
    hn::Store(hn::Add(rank[0], rank[1]), int_tag, ranks + part * kLanes);
  }
#pragma GCC unroll 16
  for (int i = 0; i < static_cast<int>(kPanel); ++i) sorted[ranks[i]] = from[i];
  std::copy_n(sorted, m, index);
}

// Scores and indices of one point that are not above a bound, in order of index.
struct Candidates {
  alignas(64) float score[(kScorePanels + 1) * kPanel];
  alignas(64) std::int32_t index[(kScorePanels + 1) * kPanel];
};

// Scores of one point over panels [begin, begin + tile), and the lowest of each lane.
template <int D>
HWY_INLINE void keep_scores(const Panels& panels, std::int64_t begin, std::int64_t tile, const float* HWY_RESTRICT x,
                            float* HWY_RESTRICT scores, float* HWY_RESTRICT lows) {
  const Tag tag;
  const std::int64_t dim = D > 0 ? D : panels.dim;
  for (int part = 0; part < kParts; ++part) {
    const float* HWY_RESTRICT c = panels.panel(begin);
    Vector low = hn::Set(tag, std::numeric_limits<float>::infinity());
    for (std::int64_t t = 0; t < tile; ++t, c += (dim + 1) * kPanel) {
      const Vector s = panel_scores<D>(c, x, dim, part);
      low = hn::Min(low, s);
      hn::Store(s, tag, scores + t * kPanel + part * kLanes);
    }
    hn::Store(low, tag, lows + part * kLanes);
  }
}

// One bit for each score that is not above `bound`, four panels a word: no branch, no store narrower than its later
// load.
HWY_INLINE void mark_scores(const float* HWY_RESTRICT scores, std::int64_t tile, float bound,
                            std::uint64_t* HWY_RESTRICT words) {
  const Tag tag;
  const Vector limit = hn::Set(tag, bound);
  for (std::int64_t t = 0; t < tile; t += 4) {
    std::uint64_t bits = 0;
    for (std::int64_t part = 0; part < std::min<std::int64_t>(4, tile - t) * kParts; ++part)
      bits |= static_cast<std::uint64_t>(mask_bits(hn::Le(hn::Load(tag, scores + t * kPanel + part * kLanes), limit)))
              << (part * kLanes);
    words[t / 4] = bits;
  }
}

HWY_INLINE std::int64_t collect(const float* HWY_RESTRICT scores, std::int64_t first, std::int64_t tile,
                                const std::uint64_t* HWY_RESTRICT words, Candidates& candidates) {
  std::int64_t count = 0;
  for (std::int64_t t = 0; t < tile; t += 4) {
    for (std::uint64_t bits = words[t / 4]; bits != 0; bits &= bits - 1) {
      const std::int64_t j = t * kPanel + std::countr_zero(bits);
      candidates.score[count] = scores[j];
      candidates.index[count++] = static_cast<std::int32_t>(first + j);
    }
  }
  return count;
}

template <int D>
void nearest_m_block_of(const Panels& panels, std::int64_t n, const float* points, std::int64_t m,
                        std::int32_t* index) {
  // Points whose scores are made before any is looked at: what depends on the scores by branches comes after, so that
  // one point's wrong guess does not hold up the next one's arithmetic.
  constexpr std::int64_t kTogether = 4;
  const std::int64_t dim = panels.dim;
  const bool single = panels.count <= kScorePanels;
  alignas(64) float scores[kTogether][kScorePanels * kPanel], lows[kPanel];
  std::uint64_t words[kTogether][kScorePanels / 4];
  Candidates candidates;
  Leaders leaders[kBlockPoints];
  for (std::int64_t begin = 0; begin < panels.count; begin += kScorePanels) {
    const std::int64_t tile = std::min(kScorePanels, panels.count - begin);
    for (std::int64_t i0 = 0; i0 < n; i0 += kTogether) {
      const std::int64_t together = std::min(kTogether, n - i0);
      for (std::int64_t p = 0; p < together; ++p) {
        keep_scores<D>(panels, begin, tile, points + (i0 + p) * dim, scores[p], lows);
        const Leaders& leader = leaders[i0 + p];
        const float bound = std::min(lane_bound(lows, m),
                                     leader.count == m ? leader.score[m - 1] : std::numeric_limits<float>::infinity());
        mark_scores(scores[p], tile, bound, words[p]);
      }
      for (std::int64_t p = 0; p < together; ++p) {
        Leaders& leader = leaders[i0 + p];
        std::int32_t* out = index + (i0 + p) * m;
        const std::int64_t count = collect(scores[p], begin * kPanel, tile, words[p], candidates);
        if (single && count >= m && count <= kPanel) {
          rank_candidates(count, candidates.score, candidates.index, m, out);
          continue;
        }
        for (std::int64_t c = 0; c < count; ++c)
          if (candidates.index[c] < panels.k) leader.offer(m, candidates.score[c], candidates.index[c]);
        // Fewer than m only where the point is not finite: any valid indices will do.
        if (begin + tile == panels.count)
          for (std::int64_t r = 0; r < m; ++r)
            out[r] = r < leader.count ? leader.index[r] : static_cast<std::int32_t>(r);
      }
    }
  }
}

void nearest_m_block_simd(const Panels& panels, std::int64_t n, const float* points, std::int64_t m,
                          std::int32_t* index) {
  with_dim(panels.dim, [&](auto d) { nearest_m_block_of<decltype(d)::value>(panels, n, points, m, index); });
}

#else   // HWY_NATIVE_FMA

void nearest_m_block_simd(const Panels& panels, std::int64_t n, const float* points, std::int64_t m,
                          std::int32_t* index) {
  for (std::int64_t i = 0; i < n; ++i) {
    Leaders leader;
    for (std::int64_t j = 0; j < panels.k; ++j) {
      const float s = plain_score(panels, points + i * panels.dim, j);
      if (s < std::numeric_limits<float>::infinity()) leader.offer(m, s, static_cast<std::int32_t>(j));
    }
    for (std::int64_t r = 0; r < m; ++r)
      index[i * m + r] = r < leader.count ? leader.index[r] : static_cast<std::int32_t>(r);
  }
}
#endif  // HWY_NATIVE_FMA

}  // namespace HWY_NAMESPACE
}  // namespace voronoi::kernels::vq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels::vq {

HWY_EXPORT(nearest_m_block_simd);

void nearest_m_block(const Panels& panels, std::int64_t n, const float* points, std::int64_t m, std::int32_t* index) {
  HWY_DYNAMIC_DISPATCH(nearest_m_block_simd)(panels, n, points, m, index);
}

}  // namespace voronoi::kernels::vq
#endif  // HWY_ONCE
