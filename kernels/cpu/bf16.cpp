// Panels of A for the whole product, of B for as many columns as stay in a last-level cache; each task takes a block of
// both that stays in the second-level cache, a part of k at a time.
#include "kernels/cpu/bf16.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "kernels/cpu/bf16_multiplier.h"
#include "kernels/cpu/scratch.h"
#include "kernels/linalg.h"

namespace voronoi::kernels {
namespace {

constexpr std::array<std::pair<std::string_view, Bf16Unit>, 3> kUnits{
    {{"tiles", Bf16Unit::tiles}, {"vectors", Bf16Unit::vectors}, {"portable", Bf16Unit::portable}}};

// Values of B packed at a time, panels of a task's block (of its rows, and at most of its columns), steps of k at a
// time.
constexpr std::int64_t kSlabValues = 4 << 20, kBlockPanels = 32, kPartSteps = 16;

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

/// Panels of the blocks that n panels are divided into, `most` at most: nearly equal, and even since tiles go in pairs.
std::int64_t block_panels(std::int64_t n, std::int64_t most) {
  const std::int64_t blocks = core::ceil_div(n, most);
  return core::ceil_div(core::ceil_div(n, blocks), 2) * 2;
}

/// finish(row, column, count, values): `count` sums of a row, from a column on. Part::lower: sums right of the diagonal
/// are not made and may be told.
template <class Finish>
void multiply(const Exec& exec, const Bf16Product& x, Part part, Bf16Unit unit, const Finish& finish) {
  const std::int64_t steps = core::ceil_div(x.k, kBf16Depth), panel = steps * kBf16StepValues;
  const std::int64_t row_panels = core::ceil_div(x.m, kBf16Panel), column_panels = core::ceil_div(x.n, kBf16Panel);
  Scratch<std::uint16_t> rows(row_panels * panel);
  exec.pool->parallel_for(
      row_panels, [&](std::int64_t i) { pack_bf16_rows(x.a, x.m, x.k, i * kBf16Panel, rows.data() + i * panel); });
  const std::int64_t slab = std::clamp<std::int64_t>(kSlabValues / std::max<std::int64_t>(panel, 1), 1, column_panels);
  const std::int64_t height = block_panels(row_panels, kBlockPanels), blocks = core::ceil_div(row_panels, height);
  Scratch<std::uint16_t> columns(slab * panel);
  for (std::int64_t first = 0; first < column_panels; first += slab) {
    const std::int64_t here = std::min(slab, column_panels - first);
    exec.pool->parallel_for(here, [&](std::int64_t j) {
      pack_bf16_columns(x.b, x.n, x.k, (first + j) * kBf16Panel, columns.data() + j * panel);
    });
    // Narrower blocks where there would be few for the threads: the bits do not depend on it.
    std::int64_t width = block_panels(here, kBlockPanels);
    while (width > 2 && blocks * core::ceil_div(here, width) < 4 * exec.pool->size() && exec.pool->size() > 1)
      width = block_panels(width, width / 2);
    const std::int64_t chunks = core::ceil_div(here, width);
    exec.pool->parallel_for(blocks * chunks, [&](std::int64_t task) {
      // Lower blocks of rows have the most columns when only the lower part is wanted: first.
      const std::int64_t i = (blocks - 1 - task / chunks) * height, j = task % chunks * width;
      const std::int64_t in_rows = std::min(height, row_panels - i), in_columns = std::min(width, here - j);
      const std::int64_t diagonal = part == Part::lower ? (i - first - j) * kBf16Panel : in_columns * kBf16Panel;
      if (diagonal + in_rows * kBf16Panel <= 0) return;
      const std::int64_t ld_sums = in_columns * kBf16Tile;
      Scratch<float> sums(in_rows * ld_sums);  // [row panel][column panel][16][16]
      if (steps == 0) std::fill_n(sums.data(), in_rows * ld_sums, 0.0F);
      Bf16Multiplier multiplier(unit, kPartSteps);
      for (std::int64_t s = 0; s < steps; s += kPartSteps)
        multiplier.multiply(
            {in_rows, in_columns, std::min(kPartSteps, steps - s), rows.data() + i * panel + s * kBf16StepValues, panel,
             columns.data() + j * panel + s * kBf16StepValues, panel, sums.data(), ld_sums},
            s == 0, diagonal);
      for (std::int64_t r = 0; r < std::min(in_rows * kBf16Panel, x.m - i * kBf16Panel); ++r)
        for (std::int64_t c = 0; c < in_columns; ++c) {
          const std::int64_t column = (first + j + c) * kBf16Panel;
          finish(i * kBf16Panel + r, column, std::min(kBf16Panel, x.n - column),
                 sums.data() + r / kBf16Panel * ld_sums + c * kBf16Tile + r % kBf16Panel * kBf16Panel);
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
             if (rest.beta == 0.0F && count == kBf16Panel)
               std::copy_n(values, kBf16Panel, target);  // of a size that the compiler knows: no call
             else if (rest.beta == 0.0F)
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
