// Rotations, 16 vectors at a time, one of each register's lanes: no lane ever meets another, so that any width of
// vectors gives the same bits.
#include "kernels/cpu/rotation.h"

#include <algorithm>
#include <cmath>

#include "core/types.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/rows.h"
#include "kernels/kernels.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rotation.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::rotation {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<float, static_cast<std::size_t>(kVectors)>;

/// Sums and differences over `distance` of a segment [size, kVectors].
HWY_INLINE void add_halves(std::int64_t size, std::int64_t distance, float* segment) {
  const Tag tag;
  const std::int64_t step = distance * kVectors, n_lanes = static_cast<std::int64_t>(hn::Lanes(tag));
  for (std::int64_t i = 0; i < size * kVectors; i += 2 * step)
    for (std::int64_t j = i; j < i + step; j += n_lanes) {
      const auto a = hn::Load(tag, segment + j), b = hn::Load(tag, segment + j + step);
      hn::Store(hn::Add(a, b), tag, segment + j);
      hn::Store(hn::Sub(a, b), tag, segment + j + step);
    }
}

/// The same over `distance` and then over 2 * distance, in one pass.
HWY_INLINE void add_quarters(std::int64_t size, std::int64_t distance, float* segment) {
  const Tag tag;
  const std::int64_t step = distance * kVectors, n_lanes = static_cast<std::int64_t>(hn::Lanes(tag));
  for (std::int64_t i = 0; i < size * kVectors; i += 4 * step)
    for (std::int64_t j = i; j < i + step; j += n_lanes) {
      float* at = segment + j;
      const auto a = hn::Load(tag, at), b = hn::Load(tag, at + step), c = hn::Load(tag, at + 2 * step),
                 d = hn::Load(tag, at + 3 * step);
      const auto ab = hn::Add(a, b), a_b = hn::Sub(a, b), cd = hn::Add(c, d), c_d = hn::Sub(c, d);
      hn::Store(hn::Add(ab, cd), tag, at);
      hn::Store(hn::Add(a_b, c_d), tag, at + step);
      hn::Store(hn::Sub(ab, cd), tag, at + 2 * step);
      hn::Store(hn::Sub(a_b, c_d), tag, at + 3 * step);
    }
}

/// Each of the n / block segments of a panel by Sylvester's matrix.
void sylvester(std::int64_t n, std::int64_t block, float* panel) {
  for (std::int64_t first = 0; first < n; first += block) {
    float* segment = panel + first * kVectors;
    std::int64_t distance = 1;
    for (; 4 * distance <= block; distance *= 4) add_quarters(block, distance, segment);
    if (distance < block) add_halves(block, distance, segment);
  }
}

/// Row i of a panel times norm, and -1 where its sign is set; no signs: times norm.
void scale_rows(std::int64_t n, float norm, const std::uint32_t* signs, float* panel) {
  const Tag tag;
  const std::int64_t n_lanes = static_cast<std::int64_t>(hn::Lanes(tag));
  for (std::int64_t i = 0; i < n; ++i) {
    const auto by = hn::Set(tag, signs != nullptr && bit_of(signs, i) ? -norm : norm);
    for (std::int64_t lane = 0; lane < kVectors; lane += n_lanes) {
      float* at = panel + i * kVectors + lane;
      hn::Store(hn::Mul(hn::Load(tag, at), by), tag, at);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace voronoi::kernels::rotation
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {
namespace rotation {

HWY_EXPORT(sylvester);
HWY_EXPORT(scale_rows);

Turner::Turner(const Exec& exec, const Rotation& rotation, bool inverse)
    : exec_(exec),
      r_(rotation),
      inverse_(inverse),
      norm_(static_cast<float>(1 / std::sqrt(static_cast<double>(rotation.order * rotation.block)))),
      factor_(static_cast<std::size_t>(rotation.order > 1 ? rotation.order * rotation.order : 0)) {
  const std::int64_t words = core::ceil_div(r_.order, std::int64_t{32});
  for (std::size_t i = 0; i < factor_.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i) / r_.order, column = static_cast<std::int64_t>(i) % r_.order;
    factor_[i] = bit_of(r_.factor + row * words, column) ? -1.0F : 1.0F;
  }
}

void Turner::turn(float* panel, float* spare) const {
  if (!inverse_) HWY_DYNAMIC_DISPATCH(scale_rows)(r_.n, 1.0F, r_.signs, panel);
  HWY_DYNAMIC_DISPATCH(sylvester)(r_.n, r_.block, panel);
  if (r_.order > 1) {
    // Products with +-1 are exact: an element's chains of multiply-adds are sums over the columns in order.
    const std::int64_t width = r_.block * kVectors, size = r_.order * width;
    for (float* part = panel; part < panel + r_.n * kVectors; part += size) {
      cpu().linalg.gemm_f32(exec_, inverse_, false, r_.order, width, r_.order, 1.0F, factor_.data(), r_.order, part,
                            width, 0.0F, spare, width);
      std::copy_n(spare, size, part);
    }
  }
  HWY_DYNAMIC_DISPATCH(scale_rows)(r_.n, norm_, inverse_ ? r_.signs : nullptr, panel);
}

namespace {

void turn_rows(const Exec& exec, const Rotation& rotation, bool inverse, std::int64_t n_rows, float* x) {
  const Turner turner(exec, rotation, inverse);
  const std::int64_t n = rotation.n;
  exec.pool->parallel_for(core::ceil_div(n_rows, kVectors), [&](std::int64_t task) {
    float* rows = x + task * kVectors * n;
    const std::int64_t count = std::min(kVectors, n_rows - task * kVectors);
    Scratch<float> panel(n * kVectors), spare(turner.spare_size());
    if (count < kVectors) std::fill_n(panel.data(), n * kVectors, 0.0F);
    to_panel(count, n, rows, n, panel.data());
    turner.turn(panel.data(), spare.data());
    from_panel(count, n, panel.data(), rows, n);
  });
}

void turn_columns(const Exec& exec, const Rotation& rotation, bool inverse, std::int64_t n_columns, float* x) {
  const Turner turner(exec, rotation, inverse);
  const std::int64_t n = rotation.n;
  exec.pool->parallel_for(core::ceil_div(n_columns, kVectors), [&](std::int64_t task) {
    float* columns = x + task * kVectors;
    const std::int64_t count = std::min(kVectors, n_columns - task * kVectors);
    Scratch<float> panel(n * kVectors), spare(turner.spare_size());
    if (count < kVectors) std::fill_n(panel.data(), n * kVectors, 0.0F);
    for (std::int64_t i = 0; i < n; ++i) std::copy_n(columns + i * n_columns, count, panel.data() + i * kVectors);
    turner.turn(panel.data(), spare.data());
    for (std::int64_t i = 0; i < n; ++i) std::copy_n(panel.data() + i * kVectors, count, columns + i * n_columns);
  });
}

void factor_gradient(const Exec& exec, std::int64_t n_out, std::int64_t n_in, const SideFactors& factors,
                     const float* weight, const float* d_weight, float* d_in, float* d_out) {
  constexpr std::int64_t kPartRows = 32;  // rows with sums of their own
  const std::int64_t n_parts = core::ceil_div(n_out, kPartRows);
  const auto share = [](float sum, float factor) { return factor != 0 ? sum / factor : 0.0F; };
  std::vector<float> sums(static_cast<std::size_t>(n_parts * n_in));
  exec.pool->parallel_for(n_parts, [&](std::int64_t part) {
    float* mine = sums.data() + part * n_in;
    for (std::int64_t row = part * kPartRows; row < std::min(n_out, (part + 1) * kPartRows); ++row) {
      const float *w = weight + row * n_in, *d = d_weight + row * n_in;
      d_out[row] += share(packed::dot(n_in, d, w), factors.out[row]);
      for (std::int64_t c = 0; c < n_in; ++c) mine[c] += d[c] * w[c];
    }
  });
  for_row_chunks(exec, n_in, n_parts, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t c = first; c < first + count; ++c) {
      float sum = 0;
      for (std::int64_t part = 0; part < n_parts; ++part) sum += sums[static_cast<std::size_t>(part * n_in + c)];
      d_in[c] += share(sum, factors.in[c]);
    }
  });
}

}  // namespace
}  // namespace rotation

RotationKernels cpu_rotation_kernels() {
  return {.turn_rows = rotation::turn_rows,
          .turn_columns = rotation::turn_columns,
          .factor_gradient = rotation::factor_gradient};
}

}  // namespace voronoi::kernels
#endif  // HWY_ONCE
