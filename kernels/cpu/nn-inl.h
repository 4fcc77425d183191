// What row-wise and elementwise operations share, once for each vector width (hence the guard that flips). Sums run
// over kLanes interleaved partial sums whatever the vector width, so that AVX2 and AVX-512 give the same bits.
#if defined(VORONOI_KERNELS_CPU_NN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VORONOI_KERNELS_CPU_NN_INL_H_
#undef VORONOI_KERNELS_CPU_NN_INL_H_
#else
#define VORONOI_KERNELS_CPU_NN_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVector = hn::Vec<FloatTag>;
using DoubleTag = hn::ScalableTag<double>;
using DoubleVector = hn::Vec<DoubleTag>;

inline constexpr std::int64_t kLanes = 16;
inline constexpr std::int64_t kWidth = static_cast<std::int64_t>(hn::MaxLanes(FloatTag()));
inline constexpr std::int64_t kDoubleWidth = static_cast<std::int64_t>(hn::MaxLanes(DoubleTag()));
inline constexpr std::int64_t kParts = kLanes / kWidth;
inline constexpr std::int64_t kDoubleParts = kLanes / kDoubleWidth;

/// Sum of kLanes partial sums in a fixed order.
template <class T>
T reduce(T* lanes) {
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2)
    for (std::int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

/// Sum of the lanes of kParts vectors, in the same order.
HWY_INLINE float sum_lanes(const FloatVector* sums) {
  float lanes[kLanes];
  for (std::int64_t part = 0; part < kParts; ++part) hn::StoreU(sums[part], FloatTag(), lanes + part * kWidth);
  return reduce(lanes);
}

/// body(offset, count) for every whole vector of n values, and a last one of fewer than kWidth.
template <class Full, class Rest>
HWY_INLINE void for_each_vector(std::int64_t n, const Full& full, const Rest& rest) {
  std::int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) full(i);
  if (i < n) rest(i, n - i);
}

/// Sum over n places; term(one vector of each array, sum) gives the sum with them. Behind the end all are zero.
template <std::size_t kArrays, class Term>
HWY_INLINE float sum_over(std::int64_t n, const float* const (&arrays)[kArrays], const Term& term) {
  const FloatTag d;
  FloatVector sums[kParts];
  for (auto& sum : sums) sum = hn::Zero(d);
  const auto add = [&](const float* const* from) HWY_ATTR {
    for (std::int64_t part = 0; part < kParts; ++part) {
      FloatVector values[kArrays];
      for (std::size_t a = 0; a < kArrays; ++a) values[a] = hn::LoadU(d, from[a] + part * kWidth);
      sums[part] = term(values, sums[part]);
    }
  };
  const float* from[kArrays];
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::size_t a = 0; a < kArrays; ++a) from[a] = arrays[a] + i;
    add(from);
  }
  if (i < n) {
    float rest[kArrays][kLanes] = {};
    for (std::size_t a = 0; a < kArrays; ++a) from[a] = std::copy_n(arrays[a] + i, n - i, rest[a]) - (n - i);
    add(from);
  }
  return sum_lanes(sums);
}

inline float dot(std::int64_t n, const float* x, const float* y) {
  return sum_over<2>(n, {x, y},
                     [](const FloatVector* v, FloatVector sum) HWY_ATTR { return hn::MulAdd(v[0], v[1], sum); });
}

inline float sum_of_squares(std::int64_t n, const float* x) { return dot(n, x, x); }

/// x = function(x) over n values.
template <class Function>
HWY_INLINE void map_range(std::int64_t n, float* x, const Function& function) {
  const FloatTag d;
  for_each_vector(
      n, [&](std::int64_t i) HWY_ATTR { hn::StoreU(function(hn::LoadU(d, x + i)), d, x + i); },
      [&](std::int64_t i, std::int64_t rest) HWY_ATTR {
        float buffer[kWidth] = {};
        std::copy_n(x + i, rest, buffer);
        hn::StoreU(function(hn::LoadU(d, buffer)), d, buffer);
        std::copy_n(buffer, rest, x + i);
      });
}

inline constexpr float kGeluCubic = 0.044715F, kGeluTwiceRoot = 1.5957691216057308F;  // 2 sqrt(2 / pi)

/// Of clamped_swiglu's sigmoid.
inline constexpr float kClampedSlope = 1.702F;

/// 2u, with gelu(x) = x (1 + tanh(u)) / 2 = x / (1 + exp(-2u)), which keeps its digits where the first form cancels.
HWY_INLINE FloatVector gelu_exponent(FloatVector x) {
  const FloatTag d;
  const FloatVector cubic = hn::MulAdd(hn::Mul(x, x), hn::Set(d, kGeluCubic), hn::Set(d, 1.0F));
  return hn::Mul(hn::Mul(x, cubic), hn::Set(d, kGeluTwiceRoot));
}

HWY_INLINE DoubleVector widened(const float* x) {
  return hn::PromoteTo(DoubleTag(), hn::LoadU(hn::Rebind<float, DoubleTag>(), x));
}

/// Sums over n places in fp64: of what vector(i, terms) gives for those from i on, and behind the last whole kLanes
/// single(i, terms) for each.
template <std::size_t kSums, class Vector, class Single>
HWY_INLINE std::array<double, kSums> wide_sums(std::int64_t n, const Vector& vector, const Single& single) {
  const DoubleTag d;
  DoubleVector sums[kSums][kDoubleParts];
  for (auto& parts : sums)
    for (auto& sum : parts) sum = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (std::int64_t part = 0; part < kDoubleParts; ++part) {
      DoubleVector terms[kSums];
      vector(i + part * kDoubleWidth, terms);
      for (std::size_t s = 0; s < kSums; ++s) sums[s][part] = hn::Add(sums[s][part], terms[s]);
    }
  std::array<double, kSums> result;
  for (std::size_t s = 0; s < kSums; ++s) {
    double lanes[kLanes];
    for (std::int64_t part = 0; part < kDoubleParts; ++part) hn::StoreU(sums[s][part], d, lanes + part * kDoubleWidth);
    result[s] = reduce(lanes);
  }
  for (; i < n; ++i) {
    double terms[kSums];
    single(i, terms);
    for (std::size_t s = 0; s < kSums; ++s) result[s] += terms[s];
  }
  return result;
}

inline float largest_of(std::int64_t n, const float* x) {
  const FloatTag d;
  FloatVector maxima[4];
  for (auto& maximum : maxima) maximum = hn::Set(d, x[0]);
  std::int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth)
    for (std::int64_t part = 0; part < 4; ++part)
      maxima[part] = hn::Max(maxima[part], hn::LoadU(d, x + i + part * kWidth));
  float largest = hn::GetLane(hn::MaxOfLanes(d, hn::Max(hn::Max(maxima[0], maxima[1]), hn::Max(maxima[2], maxima[3]))));
  for (; i < n; ++i) largest = std::max(largest, x[i]);
  return largest;
}

/// Of a row of logits.
struct LogSumExp {
  float largest;
  double value;  ///< log of the sum of their exponentials
};

inline LogSumExp log_sum_exp(std::int64_t vocab, const float* logits) {
  const DoubleTag d;
  const float largest = largest_of(vocab, logits);
  const DoubleVector shift = hn::Set(d, static_cast<double>(largest));
  const auto sums = wide_sums<1>(
      vocab,
      [&](std::int64_t i, DoubleVector* terms) HWY_ATTR { terms[0] = hn::Exp(d, hn::Sub(widened(logits + i), shift)); },
      [&](std::int64_t i, double* terms) {
        terms[0] = std::exp(static_cast<double>(logits[i]) - static_cast<double>(largest));
      });
  return {largest, std::log(sums[0]) + static_cast<double>(largest)};
}

}  // namespace voronoi::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // VORONOI_KERNELS_CPU_NN_INL_H_
