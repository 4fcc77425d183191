// Every weight to the nearest point of its group's grid, for any family of grids.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backend/device.h"
#include "core/index.h"
#include "core/thread_pool.h"
#include "core/types.h"
#include "quant/baselines/uniform.h"

namespace voronoi::quant {

/// work(row, n): rows [row, row + n) of `rows`, a tile at a time over the threads.
template <class Work>
void for_tiles(core::ThreadPool& pool, std::int64_t rows, const Work& work) {
  pool.parallel_for(core::ceil_div(rows, kRowTile), [&](std::int64_t tile) {
    const std::int64_t row = tile * kRowTile;
    work(row, std::min(kRowTile, rows - row));
  });
}

/// Rows [first, first + n) of the input's weight, its columns divided by their scales: what grids are fitted to.
/// column_scale: [in], or empty for those of the weight as it is.
inline std::vector<float> scaled_rows(const QuantInput& input, std::int64_t first, std::int64_t n,
                                      std::span<const float> column_scale) {
  const auto begin = input.weight.begin() + first * input.in_features;
  std::vector<float> rows(begin, begin + n * input.in_features);
  for (std::size_t row = 0; row < rows.size() && !column_scale.empty(); row += column_scale.size())
    for (std::size_t c = 0; c < column_scale.size(); ++c) rows[row + c] /= column_scale[c];
  return rows;
}

/// The grid of a group as it is, from its smallest to its largest weight.
template <class Grids>
typename Grids::Grid spanning_grid(const Grids& grids, const float* w, std::int64_t n) {
  const auto [low, high] = std::minmax_element(w, w + n);
  return grids.fit(*low, *high);
}

/// Rounds a row of weights to the grids of its groups, in place.
template <class Grids>
std::function<void(std::span<float>)> row_rounding(const Grids& grids, std::int64_t group_size) {
  return [grids, group_size](std::span<float> row) {
    for (std::size_t begin = 0; begin < row.size(); begin += core::index(group_size)) {
      float* w = row.data() + begin;
      const std::int64_t n = std::min(group_size, static_cast<std::int64_t>(row.size() - begin));
      grids.values(spanning_grid(grids, w, n), w, n, w);
    }
  };
}

/// Codes of the rows `range`.
template <class Grids>
typename Grids::Codes nearest_codes(core::ThreadPool& pool, const QuantInput& input, const RowRange& range,
                                    std::int64_t group_size, const Grids& grids, std::span<const float> column_scale) {
  const std::int64_t in = input.in_features, n_groups = core::ceil_div(in, group_size);
  typename Grids::Codes codes(range.end - range.begin, in, group_size);
  for_tiles(pool, range.end - range.begin, [&](std::int64_t first, std::int64_t n) {
    const std::vector<float> rows = scaled_rows(input, range.begin + first, n, column_scale);
    for (std::int64_t row = 0; row < n; ++row)
      for (std::int64_t g = 0; g < n_groups; ++g) {
        const std::int64_t begin = g * group_size, size = std::min(group_size, in - begin);
        const float* w = rows.data() + row * in + begin;
        const auto grid = spanning_grid(grids, w, size);
        codes.put((first + row) * n_groups + g, grid);
        grids.codes(grid, w, size, codes.codes.data() + (first + row) * in + begin);
      }
  });
  return codes;
}

}  // namespace voronoi::quant
