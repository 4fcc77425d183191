// Grids of signed levels: two scales a group, of the levels above and below 0 (format/signed_levels.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/team.h"
#include "format/signed_levels.h"
#include "quant/quantizer.h"

namespace voronoi::quant {

struct SignedGrid {
  float above = 0, below = 0;  ///< 0: no weight of the group has the sign, and all of it are level 0
};

/// Codes of a range of rows, processing order.
struct SignedCodes {
  SignedCodes(std::int64_t rows, std::int64_t in_features, std::int64_t group_size);
  void put(std::int64_t at, const SignedGrid& grid);

  std::vector<std::uint16_t> codes;  ///< [rows, in]
  std::vector<float> scale;          ///< [rows, n_groups, 2]
};

/// As grids.h. Both ends of a group's weights are the outermost levels of their sign; a group of zeros has the grid of
/// -1 and 1. Every weight takes the first of the levels that are nearest to it in units of its sign's scale.
class SignedGrids {
 public:
  using Grid = SignedGrid;
  using Codes = SignedCodes;

  /// levels: of format::levels_of, which outlive it; scale_dtype: f16 or bf16.
  SignedGrids(std::span<const float> levels, core::DType scale_dtype);

  Grid fit(float low, float high) const;
  std::uint16_t code(const Grid& grid, float w) const;
  float value(const Grid& grid, std::uint16_t code) const {
    return (levels_[code] < 0 ? grid.below : grid.above) * levels_[code];
  }
  void codes(const Grid& grid, const float* w, std::int64_t n, std::uint16_t* codes) const;
  void values(const Grid& grid, const float* w, std::int64_t n, float* values) const;

 private:
  std::span<const float> levels_;
  core::DType scale_dtype_;
};

/// Packs this member's rows (team_rows) and gathers everyone's. Collective.
format::SignedLevelsEncoding gather_encoding(core::Team& team, const QuantInput& input,
                                             const format::SignedLevelsExtents& extents,
                                             const std::vector<std::uint16_t>& perm,
                                             const std::vector<std::uint16_t>& column_scale, const SignedCodes& mine);

}  // namespace voronoi::quant
