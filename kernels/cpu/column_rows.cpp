// Inner loops run over independent elements and products are not contracted (-ffp-contract=off), so that vectors change
// no bit.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/column_rows.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include "kernels/cpu/column_rows.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::slice::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

void to_search_units_loop(std::int64_t n, const float* HWY_RESTRICT values, float bias, float inverse,
                          float* HWY_RESTRICT out) {
  for (std::int64_t r = 0; r < n; ++r) out[r] = (values[r] - bias) * inverse;
}

void scale_difference_loop(std::int64_t n, const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, float factor,
                           float* HWY_RESTRICT out) {
  for (std::int64_t r = 0; r < n; ++r) out[r] = (a[r] - b[r]) * factor;
}

void add_scaled_loop(std::int64_t n, const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, float factor,
                     float* HWY_RESTRICT out) {
  for (std::int64_t r = 0; r < n; ++r) out[r] = a[r] + b[r] * factor;
}

// `kVectors` vectors of rows stay in registers while all columns pass.
template <std::size_t kVectors, class Tag>
HWY_INLINE void pay_back_vectors(Tag tag, std::int64_t count, const float* factors, std::int64_t stride,
                                 const float* HWY_RESTRICT rows, std::int64_t width, float* HWY_RESTRICT target) {
  const std::size_t lanes = hn::Lanes(tag);
  hn::Vec<Tag> left[kVectors];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kVectors; ++i) left[i] = hn::LoadU(tag, target + i * lanes);
  for (std::int64_t j = 0; j < count; ++j, rows += width) {
    const auto factor = hn::Set(tag, factors[j * stride]);
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kVectors; ++i)
      left[i] = hn::Sub(left[i], hn::Mul(factor, hn::LoadU(tag, rows + i * lanes)));
  }
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kVectors; ++i) hn::StoreU(left[i], tag, target + i * lanes);
}

void pay_back_loop(std::int64_t count, const float* factors, std::int64_t stride, const float* rows, std::int64_t width,
                   float* target) {
  constexpr std::int64_t kVectors = 8;
  const hn::ScalableTag<float> tag;
  const hn::CappedTag<float, 1> one;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(tag));
  std::int64_t r = 0;
  for (; r + kVectors * lanes <= width; r += kVectors * lanes)
    pay_back_vectors<kVectors>(tag, count, factors, stride, rows + r, width, target + r);
  for (; r + lanes <= width; r += lanes) pay_back_vectors<1>(tag, count, factors, stride, rows + r, width, target + r);
  for (; r < width; ++r) pay_back_vectors<1>(one, count, factors, stride, rows + r, width, target + r);
}

}  // namespace
}  // namespace voronoi::kernels::slice::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels::slice {

HWY_EXPORT(to_search_units_loop);
HWY_EXPORT(scale_difference_loop);
HWY_EXPORT(add_scaled_loop);
HWY_EXPORT(pay_back_loop);

void to_search_units(std::int64_t n, const float* values, float bias, float inverse, float* out) {
  HWY_DYNAMIC_DISPATCH(to_search_units_loop)(n, values, bias, inverse, out);
}
void scale_difference(std::int64_t n, const float* a, const float* b, float factor, float* out) {
  HWY_DYNAMIC_DISPATCH(scale_difference_loop)(n, a, b, factor, out);
}
void add_scaled(std::int64_t n, const float* a, const float* b, float factor, float* out) {
  HWY_DYNAMIC_DISPATCH(add_scaled_loop)(n, a, b, factor, out);
}
void pay_back(std::int64_t count, const float* factors, std::int64_t stride, const float* rows, std::int64_t width,
              float* target) {
  HWY_DYNAMIC_DISPATCH(pay_back_loop)(count, factors, stride, rows, width, target);
}

}  // namespace voronoi::kernels::slice
#endif
