#include "format/level_tables.h"

namespace voronoi::format {
namespace {

constexpr float kNormal3[] = {-1, -0.53502274F, -0.2469314F, 0, 0.18333752F, 0.3819939F, 0.6229857F, 1};
constexpr float kNormal4[] = {
    -1,         -0.6961928F, -0.52507305F, -0.3949175F, -0.28444138F, -0.18477343F, -0.09105004F, 0,
    0.0795803F, 0.1609302F,  0.2461123F,   0.33791524F, 0.44070983F,  0.562617F,    0.72295684F,  1};
constexpr float kFloating3[] = {-4, -2, -1, 0, 0, 1, 2, 4};
constexpr float kFloating4[] = {-6, -4, -3, -2, -1.5F, -1, -0.5F, 0, 0, 0.5F, 1, 1.5F, 2, 3, 4, 6};

}  // namespace

std::span<const float> levels_of(std::int64_t table, std::int64_t bits) {
  if (table == static_cast<std::int64_t>(LevelTable::normal)) {
    if (bits == 3) return kNormal3;
    if (bits == 4) return kNormal4;
  }
  if (table == static_cast<std::int64_t>(LevelTable::floating)) {
    if (bits == 3) return kFloating3;
    if (bits == 4) return kFloating4;
  }
  return {};
}

}  // namespace voronoi::format
