// The tables of levels that signed-level codes stand for (AFPQ, Zhang et al. 2023; NF4 of QLoRA, Dettmers et al. 2023).
#pragma once

#include <cstdint>
#include <span>

namespace voronoi::format {

/// Numbers in files: they stay.
enum class LevelTable : std::int64_t {
  normal = 0,    ///< quantiles of a normal distribution: NF3, NF4
  floating = 1,  ///< a sign and a small floating-point number: FP3 (0, 1, 2, 4), FP4 (0, 0.5, 1, 1.5, 2, 3, 4, 6)
};

/// The 2^bits levels, rising, 0 among them (twice in those of floating numbers, that of each sign). Empty: there is no
/// such table.
std::span<const float> levels_of(std::int64_t table, std::int64_t bits);

}  // namespace voronoi::format
