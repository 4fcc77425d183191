// Panels of A for the whole product, of B for as many columns as stay in a last-level cache; each task takes a block of
// both that stays in the second-level cache, a part of k at a time.
#include "kernels/cpu/bf16.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "kernels/cpu/bf16_panels.h"
#include "kernels/cpu/bf16_tiles.h"
#include "kernels/cpu/scratch.h"
#include "kernels/linalg.h"

namespace voronoi::kernels {
namespace {

constexpr std::array<std::pair<std::string_view, Bf16Unit>, 3> kUnits{
    {{"tiles", Bf16Unit::tiles}, {"vectors", Bf16Unit::vectors}, {"portable", Bf16Unit::portable}}};

// Values of B packed at a time, panels of a task's block (of its rows, and at most of its columns), steps of k at a
// time.
constexpr std::int64_t kSlabValues = 4 << 20, kBlockPanels = 16, kTileSteps = 32, kVectorSteps = 16;

Bf16Unit choose_unit() {
  if (const char* wanted = std::getenv("VORONOI_BF16_UNIT"); wanted != nullptr && *wanted != '\0') {
    for (const auto& [name, unit] : kUnits)
      if (name == wanted && has_bf16_unit(unit)) return unit;
    throw core::ConfigError("VORONOI_BF16_UNIT: '" + std::string(wanted) +
                            "' is none of tiles, vectors and portable, or this machine does not have it");
  }
  for (const auto& [name, unit] : kUnits)
    if (has_bf16_unit(unit)) return unit;
  return Bf16Unit::portable;
}

/// A block's sums, [row panel][column panel][16][16], and what makes them.
class Block {
 public:
  Block(Bf16Unit unit, std::int64_t row_panels, std::int64_t column_panels)
      : unit_(unit),
        row_panels_(row_panels),
        column_panels_(column_panels),
        sums_(row_panels * column_panels * kBf16Tile),
        wide_(unit == Bf16Unit::tiles ? 0 : kVectorSteps * kBf16StepValues) {}

  /// sums = the product; a, b: the first panels, `steps` deep. Tiles wholly right of the diagonal (column - row =
  /// diagonal) are left out.
  void multiply(std::int64_t steps, const std::uint16_t* a, const std::uint16_t* b, std::int64_t diagonal) {
    if (unit_ == Bf16Unit::tiles && steps > 0)
      by_tiles(steps, a, b, diagonal);
    else
      by_vectors(steps, a, b, diagonal);
  }

  /// kBf16Panel sums of a row, from column `column_panel` * kBf16Panel on.
  const float* row(std::int64_t row, std::int64_t column_panel) const {
    return sums_.data() + (row / kBf16Panel * column_panels_ + column_panel) * kBf16Tile +
           row % kBf16Panel * kBf16Panel;
  }

 private:
  void by_tiles(std::int64_t steps, const std::uint16_t* a, const std::uint16_t* b, std::int64_t diagonal) {
    const std::int64_t panel = steps * kBf16StepValues;
    const TileScope scope;
    for (std::int64_t s = 0; s < steps; s += kTileSteps)
      for (std::int64_t j = 0; j < column_panels_; j += 2)
        for (std::int64_t i = 0; i < row_panels_; i += 2) {
          if (j * kBf16Panel > (i + 2) * kBf16Panel - 1 + diagonal) continue;
          multiply_tiles(row_panels_ - i, column_panels_ - j, std::min(kTileSteps, steps - s), s == 0,
                         a + i * panel + s * kBf16StepValues, panel, b + j * panel + s * kBf16StepValues, panel,
                         sums_.data() + (i * column_panels_ + j) * kBf16Tile, column_panels_ * kBf16Tile);
        }
  }

  void by_vectors(std::int64_t steps, const std::uint16_t* a, const std::uint16_t* b, std::int64_t diagonal) {
    std::fill_n(sums_.data(), row_panels_ * column_panels_ * kBf16Tile, 0.0F);
    const bool flush = unit_ == Bf16Unit::portable;
    std::optional<FlushScope> scope;
    if (!flush) scope.emplace();
    for (std::int64_t i = 0; i < row_panels_; ++i)
      for (std::int64_t s = 0; s < steps; s += kVectorSteps) {
        const std::int64_t part = std::min(kVectorSteps, steps - s);
        widen_bf16_rows(part, flush, a + (i * steps + s) * kBf16StepValues, wide_.data());
        for (std::int64_t j = 0; j < column_panels_ && j * kBf16Panel <= (i + 1) * kBf16Panel - 1 + diagonal; ++j)
          multiply_bf16_vectors(part, flush, wide_.data(), b + (j * steps + s) * kBf16StepValues,
                                sums_.data() + (i * column_panels_ + j) * kBf16Tile);
      }
  }

  Bf16Unit unit_;
  std::int64_t row_panels_, column_panels_;
  Scratch<float> sums_, wide_;
};

/// finish(row, column, count, values): `count` sums of a row, from a column on. Part::lower: sums right of the diagonal
/// are not made and may be told.
template <class Finish>
void multiply(const Exec& exec, const Bf16Product& x, Part part, Bf16Unit unit, const Finish& finish) {
  VORONOI_REQUIRE(has_bf16_unit(unit), "a unit that is not there");
  const std::int64_t steps = core::ceil_div(x.k, kBf16Depth), panel = steps * kBf16StepValues;
  const std::int64_t row_panels = core::ceil_div(x.m, kBf16Panel), column_panels = core::ceil_div(x.n, kBf16Panel);
  Scratch<std::uint16_t> rows(row_panels * panel);
  exec.pool->parallel_for(
      row_panels, [&](std::int64_t i) { pack_bf16_rows(x.a, x.m, x.k, i * kBf16Panel, rows.data() + i * panel); });
  const std::int64_t slab = std::clamp<std::int64_t>(kSlabValues / std::max<std::int64_t>(panel, 1), 1, column_panels);
  const std::int64_t blocks = core::ceil_div(row_panels, kBlockPanels);
  Scratch<std::uint16_t> columns(slab * panel);
  for (std::int64_t first = 0; first < column_panels; first += slab) {
    const std::int64_t here = std::min(slab, column_panels - first);
    exec.pool->parallel_for(here, [&](std::int64_t j) {
      pack_bf16_columns(x.b, x.n, x.k, (first + j) * kBf16Panel, columns.data() + j * panel);
    });
    // Narrower blocks where there would be few for the threads: the bits do not depend on it.
    std::int64_t width = kBlockPanels;
    while (width > 2 && blocks * core::ceil_div(here, width) < 4 * exec.pool->size() && exec.pool->size() > 1)
      width /= 2;
    const std::int64_t chunks = core::ceil_div(here, width);
    exec.pool->parallel_for(blocks * chunks, [&](std::int64_t task) {
      // Lower blocks of rows have the most columns when only the lower part is wanted: first.
      const std::int64_t i = (blocks - 1 - task / chunks) * kBlockPanels, j = task % chunks * width;
      const std::int64_t in_rows = std::min(kBlockPanels, row_panels - i), in_columns = std::min(width, here - j);
      const std::int64_t diagonal = part == Part::lower ? (i - first - j) * kBf16Panel : in_columns * kBf16Panel;
      if (diagonal + in_rows * kBf16Panel <= 0) return;
      Block block(unit, in_rows, in_columns);
      block.multiply(steps, rows.data() + i * panel, columns.data() + j * panel, diagonal);
      for (std::int64_t r = 0; r < std::min(in_rows * kBf16Panel, x.m - i * kBf16Panel); ++r)
        for (std::int64_t c = 0; c < in_columns; ++c) {
          const std::int64_t column = (first + j + c) * kBf16Panel;
          finish(i * kBf16Panel + r, column, std::min(kBf16Panel, x.n - column), block.row(r, c));
        }
    });
  }
}

}  // namespace

bool has_bf16_unit(Bf16Unit unit) {
  if (unit == Bf16Unit::tiles) return has_tiles();
#if defined(__x86_64__)
  return true;
#else
  return unit == Bf16Unit::portable;
#endif
}

Bf16Unit bf16_unit() {
  static const Bf16Unit unit = choose_unit();
  return unit;
}

void cpu_bf16_product(const Exec& exec, const Bf16Product& product, Bf16Unit unit) {
  Bf16Product rest = product;
  if (product.m <= kBf16FewRows && product.a.along_k && product.a.wide != nullptr && product.b.along_k &&
      product.b.bits != nullptr) {
    const std::int64_t done = bf16_few_rows(exec, product, unit == Bf16Unit::portable);
    rest.n -= done;
    rest.b.bits += done * product.b.ld;
    rest.c += done;
  }
  if (rest.m == 0 || rest.n == 0) return;
  multiply(exec, rest, Part::all, unit,
           [&rest](std::int64_t row, std::int64_t column, std::int64_t count, const float* values) {
             float* target = rest.c + row * rest.ldc + column;
             if (rest.beta == 0.0F)
               std::copy_n(values, count, target);
             else
               for (std::int64_t c = 0; c < count; ++c) target[c] += values[c];
           });
}

void cpu_bf16_gram(const Exec& exec, std::int64_t n_rows, std::int64_t n, const float* x, std::int64_t ldx, double* sum,
                   Bf16Unit unit) {
  for (std::int64_t first = 0; first < n_rows && n > 0; first += kCpuGramRows) {
    const Bf16Operand columns{x + first * ldx, nullptr, ldx, false};
    const Bf16Product product{n, n, std::min(kCpuGramRows, n_rows - first), columns, columns, 0.0F, nullptr, 0};
    multiply(exec, product, Part::lower, unit,
             [sum](std::int64_t row, std::int64_t column, std::int64_t count, const float* values) {
               double* target = sum + row * (row + 1) / 2 + column;
               const std::int64_t last = std::min(count, row + 1 - column);
               for (std::int64_t c = 0; c < last; ++c) target[c] += static_cast<double>(values[c]);
             });
  }
}

}  // namespace voronoi::kernels
