#include "kernels/cpu/bf16_multiplier.h"

#include <algorithm>

#include "core/error.h"

namespace voronoi::kernels {

Bf16Multiplier::Bf16Multiplier(Bf16Unit unit, std::int64_t most_steps)
    : unit_(unit), wide_(unit == Bf16Unit::tiles ? 0 : most_steps * kBf16StepValues) {
  VORONOI_REQUIRE(has_bf16_unit(unit), "a unit that is not there");
  if (unit == Bf16Unit::tiles) tiles_.emplace();
}

void Bf16Multiplier::multiply(const Bf16Panels& x, bool begin, std::int64_t diagonal) {
  if (unit_ == Bf16Unit::tiles)
    by_tiles(x, begin, diagonal);
  else
    by_vectors(x, begin, diagonal);
}

void Bf16Multiplier::by_tiles(const Bf16Panels& x, bool begin, std::int64_t diagonal) {
  for (std::int64_t j = 0; j < x.column_panels; j += 2)
    for (std::int64_t i = 0; i < x.row_panels; i += 2)
      if (j * kBf16Panel < (i + 2) * kBf16Panel + diagonal)
        multiply_tiles(x.row_panels - i, x.column_panels - j, x.steps, begin, x.a + i * x.ld_a, x.ld_a,
                       x.b + j * x.ld_b, x.ld_b, x.sums + i * x.ld_sums + j * kBf16Tile, x.ld_sums);
}

void Bf16Multiplier::by_vectors(const Bf16Panels& x, bool begin, std::int64_t diagonal) {
  const bool flush = unit_ == Bf16Unit::portable;
  std::optional<FlushScope> scope;
  if (!flush) scope.emplace();
  for (std::int64_t i = 0; i < x.row_panels; ++i) {
    widen_bf16_rows(x.steps, flush, x.a + i * x.ld_a, wide_.data());
    for (std::int64_t j = 0; j < x.column_panels && j * kBf16Panel < (i + 1) * kBf16Panel + diagonal; ++j) {
      float* sums = x.sums + i * x.ld_sums + j * kBf16Tile;
      if (begin) std::fill_n(sums, kBf16Tile, 0.0F);
      multiply_bf16_vectors(x.steps, flush, wide_.data(), x.b + j * x.ld_b, sums);
    }
  }
}

}  // namespace voronoi::kernels
