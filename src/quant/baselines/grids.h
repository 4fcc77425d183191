// Grids of groups of weights by family: what the loops over rows (rtn_loop.h, clip_search.h, gptq_loop.h) are written
// for.
//
// A family Grids has Grids::Grid, the grid of a group; Grids::Codes(rows, in_features, group_size), codes of a range of
// rows with put(at, grid) for group `at` of them; fit(low, high), the grid that spans low, high and 0; code(grid, w)
// and value(grid, code) of a weight, and both for the n of a group.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "quant/baselines/uniform.h"

namespace voronoi::quant {

/// Uniform codes, asymmetric.
class UniformGrids {
 public:
  using Grid = UniformGrid;
  using Codes = UniformCodes;

  /// scale_dtype: f16, bf16 or f32.
  UniformGrids(int bits, core::DType scale_dtype)
      : max_code_(static_cast<float>((1 << bits) - 1)), scale_dtype_(scale_dtype) {}

  Grid fit(float low, float high) const { return UniformGrid::fit(low, high, max_code_, scale_dtype_); }
  std::uint16_t code(const Grid& grid, float w) const { return static_cast<std::uint16_t>(grid.code(w, max_code_)); }
  float value(const Grid& grid, std::uint16_t code) const { return grid.value(static_cast<float>(code)); }
  void codes(const Grid& grid, const float* w, std::int64_t n, std::uint16_t* codes) const {
    for (std::int64_t i = 0; i < n; ++i) codes[i] = static_cast<std::uint16_t>(grid.code(w[i], max_code_));
  }
  void values(const Grid& grid, const float* w, std::int64_t n, float* values) const {
    for (std::int64_t i = 0; i < n; ++i) values[i] = grid.value(grid.code(w[i], max_code_));
  }

 private:
  float max_code_;
  core::DType scale_dtype_;
};

}  // namespace voronoi::quant
