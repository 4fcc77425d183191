// Panels of bfloat16 values as a tile unit reads them, and the same products by vectors.
#pragma once

#include <cstdint>

#include "kernels/cpu/bf16.h"

namespace voronoi::kernels {

/// k in a step, and rows or columns in a panel.
inline constexpr std::int64_t kBf16Depth = 32, kBf16Panel = 16;
inline constexpr std::int64_t kBf16StepValues = kBf16Depth * kBf16Panel;  ///< of a panel: 1 KiB
inline constexpr std::int64_t kBf16Tile = kBf16Panel * kBf16Panel;        ///< sums of two panels

/// Rows [first, first + kBf16Panel) of a matrix [extent, k], zeros beyond both: a row panel [step][row][32], a column
/// panel [step][pair of k][column][2].
void pack_bf16_rows(const Bf16Operand& x, std::int64_t extent, std::int64_t k, std::int64_t first,
                    std::uint16_t* panel);
void pack_bf16_columns(const Bf16Operand& x, std::int64_t extent, std::int64_t k, std::int64_t first,
                       std::uint16_t* panel);

/// wide [steps][row][32] = a row panel's values.
void widen_bf16_rows(std::int64_t steps, bool flush, const std::uint16_t* panel, float* wide);
/// sums [row][column] += the products of a widened row panel and a column panel. flush: subnormals by comparisons, else
/// within a FlushScope.
void multiply_bf16_vectors(std::int64_t steps, bool flush, const float* rows, const std::uint16_t* columns,
                           float* sums);

/// Rows of A up to which reading B once decides how long a product takes.
inline constexpr std::int64_t kBf16FewRows = 4;
/// The product for m <= kBf16FewRows and both operands along k, B being bits: each row of B once and in place. Writes
/// the first columns of C and returns how many: what is left is too narrow.
std::int64_t bf16_few_rows(const Exec& exec, const Bf16Product& product, bool flush);

/// While it is there this thread's fp32 operations take subnormals for zeros, and give them for zeros; where the
/// processor has no such mode as x86 has, nothing happens.
class FlushScope {
 public:
  FlushScope();
  ~FlushScope();
  FlushScope(const FlushScope&) = delete;
  FlushScope& operator=(const FlushScope&) = delete;

 private:
  unsigned saved_ = 0;
};

}  // namespace voronoi::kernels
