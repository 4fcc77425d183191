// A thread's products of packed panels of bfloat16, by whichever unit.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/bf16_panels.h"
#include "kernels/cpu/bf16_tiles.h"
#include "kernels/cpu/scratch.h"

namespace voronoi::kernels {

/// Panels from `a` and `b` on, ld_a and ld_b values apart, `steps` steps of each; sums of panels (i, j) at sums + i *
/// ld_sums + j * kBf16Tile.
struct Bf16Panels {
  std::int64_t row_panels, column_panels, steps;
  const std::uint16_t* a;
  std::int64_t ld_a;
  const std::uint16_t* b;
  std::int64_t ld_b;
  float* sums;
  std::int64_t ld_sums;
};

/// To be made and used within one task.
class Bf16Multiplier {
 public:
  /// most_steps: of a product.
  Bf16Multiplier(Bf16Unit unit, std::int64_t most_steps);

  /// sums += the products, from 0 where they `begin`. Sums wholly right of the diagonal (column - row = diagonal) may
  /// be left as they are.
  void multiply(const Bf16Panels& x, bool begin, std::int64_t diagonal);
  void multiply(const Bf16Panels& x, bool begin) { multiply(x, begin, x.column_panels * kBf16Panel); }

 private:
  void by_tiles(const Bf16Panels& x, bool begin, std::int64_t diagonal);
  void by_vectors(const Bf16Panels& x, bool begin, std::int64_t diagonal);

  Bf16Unit unit_;
  Scratch<float> wide_;
  std::optional<TileScope> tiles_;
};

}  // namespace voronoi::kernels
