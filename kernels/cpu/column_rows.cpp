// Inner loops run over independent elements and products are not contracted (-ffp-contract=off), so that the compiler's
// vectors change no bit.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/column_rows.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include <algorithm>

#include "kernels/cpu/column_rows.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::slice::HWY_NAMESPACE {
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

void pay_back_loop(std::int64_t count, const float* factors, std::int64_t stride, const float* rows, std::int64_t width,
                   float* target) {
  // As many rows at a time as stay in registers while all columns pass.
  constexpr std::int64_t kRows = 64;
  for (std::int64_t begin = 0; begin < width; begin += kRows) {
    const std::int64_t n = std::min(kRows, width - begin);
    alignas(64) float sum[kRows] = {};
    std::copy_n(target + begin, n, sum);
    for (std::int64_t j = 0; j < count; ++j) {
      const float factor = factors[j * stride];
      const float* HWY_RESTRICT row = rows + j * width + begin;
      if (n == kRows)
        for (std::int64_t r = 0; r < kRows; ++r) sum[r] -= factor * row[r];
      else
        for (std::int64_t r = 0; r < n; ++r) sum[r] -= factor * row[r];
    }
    std::copy_n(sum, n, target + begin);
  }
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
