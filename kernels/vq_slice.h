// Vector quantization of the rows of an operator that one member holds: the column loop (VPTQ, arXiv 2409.17066),
// column sweeps, and the sums behind codebook training and refits. All arrays are in device memory unless marked host.
//
// A slice is a range of contiguous rows, transposed: matrices are [in_features, width], row p = column of the operator
// at position p of the processing order, so that a column's rows are neighbours and a vector is v of them. Rows past
// `rows` are padding: zero in every matrix, outside distances, feedback, sums and training. Codes are [in_features,
// code_stride]: vector i of position p, rows [i v, i v + v), at p * code_stride + i.
//
// The slice is cut into parts at rows that do not depend on how many members there are; sums over rows are made part by
// part and combined in order of part, so that any division of the operator gives the same bits. A slice may be
// empty (rows, width, parts 0): nothing is written then but combined sums, which are zero.
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/exec.h"

namespace voronoi::kernels {

struct VqSlice {
  std::int64_t in_features = 0, rows = 0;
  std::int64_t width = 0;                         ///< rows rounded up to whole vectors of both lengths
  std::int64_t code_stride = 0;                   ///< most vectors of either length a column has
  std::int64_t v = 0, k = 0, kr = 0;              ///< vector length, main and residual centroids (kr 0: none)
  std::int64_t groups = 1, group_size = 0;        ///< columns behind the outliers, in groups with a codebook each
  std::int64_t outlier_size = 0, v0 = 1, k0 = 0;  ///< the first positions have vectors and a codebook of their own
  std::int64_t n_parts = 0;
  const std::int64_t* part_begin =
      nullptr;  ///< host, n_parts + 1 rows of the slice, multiples of v and v0 but the last

  bool is_outlier(std::int64_t position) const { return position < outlier_size; }
  /// Column group of a position that is no outlier.
  std::int64_t group_of(std::int64_t position) const { return (position - outlier_size) / group_size; }
};

/// w = (main + residual) * scale + bias, each operation rounded to fp32 once. residual null: takes no part.
struct VqBooks {
  const float* main = nullptr;      ///< [groups, k, v]
  const float* residual = nullptr;  ///< [groups, kr, v]
  const float* outlier = nullptr;   ///< [k0, v0]
  const float* scale = nullptr;     ///< [in_features], processing order, > 0 where codes are searched
  const float* bias = nullptr;      ///< [in_features]
};

struct VqCodes {
  std::int32_t* main = nullptr;  ///< [in_features, code_stride]; of outlier positions: codes of the outlier codebook
  std::int32_t* residual = nullptr;  ///< likewise; null when kr == 0
};

/// Columns whose effect on the others is held back and made up for in one product; inside, columns go in smaller steps
/// of the same kind.
inline constexpr int kColumnBlock = 128, kColumnStep = 16;

/// Rows that a thread of the CPU takes through a loop at a time, at most.
inline constexpr std::int64_t kCpuStripRows = 384;

struct ColumnLoopOptions {
  std::int64_t candidates =
      1;  ///< main centroids tried with each one's best residual, at most kMaxNearest; 1: greedy, main then residual
  bool feedback = true;         ///< false: each column to its nearest vectors
  bool padding_counts = false;  ///< zeros past the rows take part in distances, as in the reference: to compare with it
};

/// Vectors of `dim` rows of the positions [first, first + count).
struct TrainingRange {
  std::int64_t first = 0, count = 0, dim = 0;
  std::int64_t stride = 1;  ///< every stride-th whole vector, counted through a part, column by column
};

struct VqSliceKernels {
  /// matrix [in_features, width] from weight [rows, in_features] row-major (device): matrix[p, r] = weight[r, perm[p]],
  /// zero past the rows.
  void (*transpose)(const Exec&, const VqSlice&, const float* weight, const std::int32_t* perm, float* matrix);
  /// [in_features, width] of all codes, zero past the rows. Also the change that a change of the books makes: books of
  /// differences.
  void (*decode)(const Exec&, const VqSlice&, const VqBooks&, const VqCodes&, float* matrix);
  /// Training vectors (matrix - bias) / scale (as a product with 1 / scale) of one range, part after part: points [n,
  /// dim], weights [n] = column_weight[position - first]. bias null: 0. counts (host, n_parts): whole vectors a part,
  /// ceil(floor(part rows / dim) * count / stride), for the caller's n.
  void (*gather_training)(const Exec&, const VqSlice&, const TrainingRange&, const float* matrix, const float* scale,
                          const float* bias, const float* column_weight, float* points, float* weights);
  /// The column loop over all positions in order: target [in_features, width] holds the weights and leaves as what each
  /// column was when it was quantized. Column n becomes q_n, its nearest code; e_n = (target_n - q_n) / U_nn is paid
  /// back by the columns behind it: target_j -= U_nj e_n. factor: U [in_features, in_features], upper. Writes codes and
  /// quantized [in_features, width].
  void (*column_loop)(const Exec&, const VqSlice&, const VqBooks&, const ColumnLoopOptions&, const float* factor,
                      float* target, const VqCodes&, float* quantized);
  /// Coordinate descent over all positions in order: codes anew for the target q_n + g_n / H_nn where g = H (W - Q)
  /// [in_features, width] is `gradient`; a vector whose new code is no nearer keeps the old one. gradient, codes and
  /// quantized are kept up to date. hessian [in_features, in_features], processing order.
  void (*sweep)(const Exec&, const VqSlice&, const VqBooks&, std::int64_t candidates, const float* hessian,
                float* gradient, const VqCodes&, float* quantized);
  /// out = a - b over n values; in place allowed.
  void (*subtract)(const Exec&, std::int64_t n, const float* a, const float* b, float* out);

  // Sums. combined: one array, the parts added in order; else one array a part, [n_parts, size]. fp64 throughout.

  /// sum of a * b over the rows of each part, all positions. sums [1].
  void (*dots)(const Exec&, const VqSlice&, const float* a, const float* b, bool combined, double* sums);
  /// Transpose of decode with respect to the books: for each entry (j, d) of a codebook the sum over its uses of
  /// scale_p * g[p, row]; sums [groups k v + groups kr v + k0 v0], in the order main, residual (when residual codes
  /// are given), outlier. g null: the diagonal of the normal equations, scale_p^2 * diagonal[p] in place of scale_p *
  /// g.
  void (*collect_books)(const Exec&, const VqSlice&, const VqCodes&, const float* scale, const float* g,
                        const float* diagonal, bool combined, double* sums);
  /// The same with respect to the columns' scale and bias: with u = main + residual, sums [2 in_features] = sum_r g u,
  /// then sum_r g. g null: diagonal[p] * sum_r u^2, then diagonal[p] * rows.
  void (*collect_columns)(const Exec&, const VqSlice&, const VqBooks&, const VqCodes&, const float* g,
                          const float* diagonal, bool combined, double* sums);

  /// Codes to the public layout: words [groups, ceil(rows / v), ceil(group_size T / 32)], T = log2 k + log2 kr, value
  /// main | residual << log2 k of stored column j at bits [j T, (j + 1) T), LSB first. stored [in_features -
  /// outlier_size]: stored column of position outlier_size + i within its group. outlier_words [ceil(rows / v0),
  /// outlier_size] (null without outliers).
  void (*pack)(const Exec&, const VqSlice&, const VqCodes&, const std::int32_t* stored, std::uint32_t* words,
               std::uint16_t* outlier_words);
};

}  // namespace voronoi::kernels
