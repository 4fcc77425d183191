// The tile unit of x86 (AMX) on packed panels of bfloat16.
#pragma once

#include <cstdint>

#include "kernels/cpu/bf16_panels.h"

namespace voronoi::kernels {

/// Whether the processor has tiles of bfloat16 and the system lets this process use them (it is asked once).
bool has_tiles();

/// The tiles are this thread's, configured, as long as it is there.
class TileScope {
 public:
  TileScope();
  ~TileScope();
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

/// sums += `steps` steps of up to 2 x 2 panels, from 0 where they `begin`; the sums of panels (i, j) at sums + i *
/// ld_sums + j * kBf16Tile. a, b: the first step of the first panel, the next one ld_a, ld_b values behind. Within a
/// TileScope.
void multiply_tiles(std::int64_t row_panels, std::int64_t column_panels, std::int64_t steps, bool begin,
                    const std::uint16_t* a, std::int64_t ld_a, const std::uint16_t* b, std::int64_t ld_b, float* sums,
                    std::int64_t ld_sums);

}  // namespace voronoi::kernels
