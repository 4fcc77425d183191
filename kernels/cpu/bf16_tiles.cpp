#include "kernels/cpu/bf16_tiles.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace voronoi::kernels {
namespace {

#define VORONOI_TILES __attribute__((target("amx-tile,amx-bf16")))

/// As LDTILECFG reads it.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

bool find_tiles() {
  constexpr unsigned kBf16 = 1U << 22, kTile = 1U << 24;
  unsigned a, b, c, d;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kBf16) == 0 || (d & kTile) == 0) return false;
  // Linux keeps the tiles of a process only once it has asked (ARCH_REQ_XCOMP_PERM of XTILEDATA).
  constexpr int kRequest = 0x1023, kTileData = 18;
  return ::syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

VORONOI_TILES void configure() {
  static constexpr TileConfig kConfig;
  _tile_loadconfig(&kConfig);
}
VORONOI_TILES void release() { _tile_release(); }

/// Tiles 0 to 3 hold sums, 4 and 5 rows, 6 and 7 columns. The numbers of tiles are part of the instructions.
template <bool kTwoRows, bool kTwoColumns>
VORONOI_TILES void multiply(std::int64_t steps, bool begin, const std::uint16_t* a, std::int64_t ld_a,
                            const std::uint16_t* b, std::int64_t ld_b, float* sums, std::int64_t ld_sums) {
  constexpr int kLine = 64;
  if (begin) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kLine);
    if constexpr (kTwoColumns) _tile_loadd(1, sums + kBf16Tile, kLine);
    if constexpr (kTwoRows) _tile_loadd(2, sums + ld_sums, kLine);
    if constexpr (kTwoRows && kTwoColumns) _tile_loadd(3, sums + ld_sums + kBf16Tile, kLine);
  }
  for (std::int64_t s = 0; s < steps; ++s, a += kBf16StepValues, b += kBf16StepValues) {
    _tile_loadd(6, b, kLine);
    _tile_loadd(4, a, kLine);
    if constexpr (kTwoColumns) _tile_loadd(7, b + ld_b, kLine);
    if constexpr (kTwoRows) _tile_loadd(5, a + ld_a, kLine);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kTwoColumns) _tile_dpbf16ps(1, 4, 7);
    if constexpr (kTwoRows) _tile_dpbf16ps(2, 5, 6);
    if constexpr (kTwoRows && kTwoColumns) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, kLine);
  if constexpr (kTwoColumns) _tile_stored(1, sums + kBf16Tile, kLine);
  if constexpr (kTwoRows) _tile_stored(2, sums + ld_sums, kLine);
  if constexpr (kTwoRows && kTwoColumns) _tile_stored(3, sums + ld_sums + kBf16Tile, kLine);
}

}  // namespace

bool has_tiles() {
  static const bool has = find_tiles();
  return has;
}

TileScope::TileScope() { configure(); }
TileScope::~TileScope() { release(); }

void multiply_tiles(std::int64_t row_panels, std::int64_t column_panels, std::int64_t steps, bool begin,
                    const std::uint16_t* a, std::int64_t ld_a, const std::uint16_t* b, std::int64_t ld_b, float* sums,
                    std::int64_t ld_sums) {
  const auto kernel = row_panels > 1 ? (column_panels > 1 ? multiply<true, true> : multiply<true, false>)
                                     : (column_panels > 1 ? multiply<false, true> : multiply<false, false>);
  kernel(steps, begin, a, ld_a, b, ld_b, sums, ld_sums);
}

}  // namespace voronoi::kernels

#else

#include "core/error.h"

namespace voronoi::kernels {

bool has_tiles() { return false; }
TileScope::TileScope() { VORONOI_REQUIRE(has_tiles(), "there are no tiles"); }
TileScope::~TileScope() = default;
void multiply_tiles(std::int64_t, std::int64_t, std::int64_t, bool, const std::uint16_t*, std::int64_t,
                    const std::uint16_t*, std::int64_t, float*, std::int64_t) {
  VORONOI_REQUIRE(has_tiles(), "there are no tiles");
}

}  // namespace voronoi::kernels
#endif
