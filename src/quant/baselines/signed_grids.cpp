#include "quant/baselines/signed_grids.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/bytes.h"
#include "core/index.h"
#include "core/packing.h"
#include "quant/baselines/uniform.h"

namespace voronoi::quant {

using core::index;

namespace {

/// Beyond any level; what is divided by a small scale stays a number.
constexpr float kFarthest = 1e6F;

/// Weights that are rounded side by side.
constexpr std::int64_t kRoundedTogether = 64;

float signed_unit(const SignedGrid& grid, float w) {
  const float scale = w < 0 ? grid.below : grid.above;
  return scale > 0 ? std::clamp(w / scale, -kFarthest, kFarthest) : 0.0F;
}

/// The scale that puts a weight of this magnitude on the outermost level; 0 of none.
float signed_scale(float magnitude, float level, core::DType dtype) {
  if (magnitude == 0) return 0;
  const float scale = core::round_to(dtype, magnitude / level);
  if (!std::isfinite(scale)) return core::from_bits16(dtype, dtype == core::DType::f16 ? 0x7BFF : 0x7F7F);
  return std::max(scale, core::from_bits16(dtype, 1));
}

}  // namespace

SignedCodes::SignedCodes(std::int64_t rows, std::int64_t in_features, std::int64_t group_size)
    : codes(index(rows * in_features)), scale(index(2 * rows * core::ceil_div(in_features, group_size))) {}

void SignedCodes::put(std::int64_t at, const SignedGrid& grid) {
  scale[index(2 * at)] = grid.above;
  scale[index(2 * at + 1)] = grid.below;
}

SignedGrids::SignedGrids(std::span<const float> levels, core::DType scale_dtype)
    : levels_(levels), scale_dtype_(scale_dtype) {
  VORONOI_REQUIRE(!levels.empty(), "signed codes need levels");
}

SignedGrid SignedGrids::fit(float low, float high) const {
  if (!(low < 0) && !(high > 0)) {
    low = -1;
    high = 1;
  }
  return {signed_scale(std::max(high, 0.0F), levels_.back(), scale_dtype_),
          signed_scale(std::max(-low, 0.0F), -levels_.front(), scale_dtype_)};
}

std::uint16_t SignedGrids::code(const SignedGrid& grid, float w) const {
  std::uint16_t code = 0;
  codes(grid, &w, 1, &code);
  return code;
}

void SignedGrids::codes(const SignedGrid& grid, const float* w, std::int64_t n, std::uint16_t* codes) const {
  std::array<float, kRoundedTogether> unit{}, least{};
  std::array<std::int32_t, kRoundedTogether> best{};
  for (std::int64_t first = 0; first < n; first += kRoundedTogether) {
    const auto size = static_cast<std::size_t>(std::min(kRoundedTogether, n - first));
    for (std::size_t i = 0; i < size; ++i) {
      unit[i] = signed_unit(grid, w[first + static_cast<std::int64_t>(i)]);
      least[i] = std::fabs(unit[i] - levels_[0]);
      best[i] = 0;
    }
    for (std::size_t level = 1; level < levels_.size(); ++level)
      for (std::size_t i = 0; i < size; ++i) {
        const float distance = std::fabs(unit[i] - levels_[level]);
        best[i] = distance < least[i] ? static_cast<std::int32_t>(level) : best[i];
        least[i] = distance < least[i] ? distance : least[i];
      }
    for (std::size_t i = 0; i < size; ++i)
      codes[first + static_cast<std::int64_t>(i)] = static_cast<std::uint16_t>(best[i]);
  }
}

void SignedGrids::values(const SignedGrid& grid, const float* w, std::int64_t n, float* values) const {
  std::array<std::uint16_t, kRoundedTogether> of{};
  for (std::int64_t first = 0; first < n; first += kRoundedTogether) {
    const std::int64_t size = std::min(kRoundedTogether, n - first);
    codes(grid, w + first, size, of.data());
    for (std::int64_t i = 0; i < size; ++i) values[first + i] = value(grid, of[index(i)]);
  }
}

format::SignedLevelsEncoding gather_encoding(core::Team& team, const QuantInput& input,
                                             const format::SignedLevelsExtents& extents,
                                             const std::vector<std::uint16_t>& perm,
                                             const std::vector<std::uint16_t>& column_scale, const SignedCodes& mine) {
  format::SignedLevelsEncoding encoding;
  static_cast<format::SignedLevelsExtents&>(encoding) = extents;
  encoding.perm = perm;
  encoding.column_scale = column_scale;
  const int bits = static_cast<int>(extents.bits);
  const std::int64_t n_groups = core::ceil_div(input.in_features, extents.group_size);
  const RowRange range = team_rows(team, input.out_features);
  std::vector<std::uint16_t> scale(mine.scale.size());
  std::transform(mine.scale.begin(), mine.scale.end(), scale.begin(),
                 [&](float value) { return core::to_bits16(extents.dtype, value); });
  std::vector<std::byte> bytes;
  core::append_bytes<std::uint32_t>(pack_rows(mine.codes, range.end - range.begin, input.in_features, bits), bytes);
  core::append_bytes<std::uint16_t>(scale, bytes);
  for_each_member(team, bytes, input.out_features, [&](std::int64_t n, std::span<const std::byte> rest) {
    core::take_values(rest, index(n * core::packed_words(input.in_features, bits)), encoding.codes);
    core::take_values(rest, index(2 * n * n_groups), encoding.scale);
  });
  return encoding;
}

}  // namespace voronoi::quant
