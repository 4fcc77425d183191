// What the loops over centroid panels share, once for each vector width (hence the guard that flips).
#if defined(VORONOI_KERNELS_CPU_VQ_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VORONOI_KERNELS_CPU_VQ_INL_H_
#undef VORONOI_KERNELS_CPU_VQ_INL_H_
#else
#define VORONOI_KERNELS_CPU_VQ_INL_H_
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/cpu/vq_simd.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::vq {
namespace HWY_NAMESPACE {

#if HWY_NATIVE_FMA
namespace hn = hwy::HWY_NAMESPACE;
using Tag = hn::CappedTag<float, static_cast<std::size_t>(kPanel)>;
using IntTag = hn::RebindToSigned<Tag>;
using Vector = hn::Vec<Tag>;
using IntVector = hn::Vec<IntTag>;
constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(Tag()));
constexpr int kParts = static_cast<int>(kPanel / kLanes);  // vectors a panel

// Scores of one point against one panel; D = 0: dim at run time.
template <int D>
HWY_INLINE Vector panel_scores(const float* HWY_RESTRICT c, const float* HWY_RESTRICT x, std::int64_t dim, int part) {
  const Tag tag;
  const std::int64_t dims = D > 0 ? D : dim;
  Vector s = hn::Load(tag, c + dims * kPanel + part * kLanes);
#pragma GCC unroll 8
  for (std::int64_t d = 0; d < dims; ++d)
    s = hn::NegMulAdd(hn::Set(tag, x[d]), hn::Load(tag, c + d * kPanel + part * kLanes), s);
  return s;
}

template <class Mask>
HWY_INLINE std::uint32_t mask_bits(const Mask mask) {
  std::uint8_t bytes[8];
  hn::StoreMaskBits(Tag(), mask, bytes);
  std::conditional_t<(kLanes > 8), std::uint16_t, std::uint8_t> bits;
  std::memcpy(&bits, bytes, sizeof bits);
  return bits;
}

template <class Body>
HWY_INLINE void with_dim(std::int64_t dim, const Body& body) {
  switch (dim) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
    case 4:
      return body(std::integral_constant<int, 4>());
    case 5:
      return body(std::integral_constant<int, 5>());
    case 6:
      return body(std::integral_constant<int, 6>());
    case 7:
      return body(std::integral_constant<int, 7>());
    case 8:
      return body(std::integral_constant<int, 8>());
    default:
      return body(std::integral_constant<int, 0>());
  }
}

#else   // HWY_NATIVE_FMA

HWY_INLINE float plain_score(const Panels& panels, const float* x, std::int64_t j) {
  const float* c = panels.panel(j / kPanel) + j % kPanel;
  float s = c[panels.dim * kPanel];
  for (std::int64_t d = 0; d < panels.dim; ++d) s = std::fma(-x[d], c[d * kPanel], s);
  return s;
}
#endif  // HWY_NATIVE_FMA

}  // namespace HWY_NAMESPACE
}  // namespace voronoi::kernels::vq
HWY_AFTER_NAMESPACE();
#endif  // VORONOI_KERNELS_CPU_VQ_INL_H_
