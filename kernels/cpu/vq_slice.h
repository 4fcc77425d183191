// What the CPU twins of kernels/vq_slice.h share. A part of the slice is the unit of work: one thread runs it from the
// first column to the last, on copies of what it reads and writes often.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace voronoi::kernels::slice {

/// Rows [row, row + rows) of a slice, and the padding behind the last of them.
struct Part {
  const VqSlice& slice;
  std::int64_t row = 0, rows = 0, width = 0;

  std::int64_t vector_length(std::int64_t position) const { return slice.is_outlier(position) ? slice.v0 : slice.v; }
  /// Where the part's codes of a position start.
  std::int64_t codes_at(std::int64_t position) const {
    return position * slice.code_stride + row / vector_length(position);
  }
  /// Most codes of a column.
  std::int64_t max_vectors() const;
};

Part part_of(const VqSlice& slice, std::int64_t index);

/// The codebooks a column is coded with; residual null: none.
struct ColumnBooks {
  std::int64_t v = 0, k = 0, kr = 0;
  const float* main = nullptr;
  const float* residual = nullptr;
};
ColumnBooks books_of(const VqSlice& slice, const VqBooks& books, std::int64_t position);

/// out [rows] = (main + residual) * scale + bias of one column of a part, from its codes.
void decode_rows(const ColumnBooks& books, const std::int32_t* codes, const std::int32_t* residual_codes, float scale,
                 float bias, std::int64_t rows, float* out);

/// to [count, width] from rows of `stride` and back.
void copy_rows(std::int64_t count, std::int64_t width, const float* from, std::int64_t from_stride, float* to,
               std::int64_t to_stride);

/// Chooses codes for the columns of one part; owns its scratch, so a thread makes its own.
class ColumnSearch {
 public:
  /// searched_padding: zeros past the rows take part in distances.
  ColumnSearch(const Exec& exec, const Part& part, const VqBooks& books, std::int64_t candidates,
               bool searched_padding);

  /// target [width] in the operator's units -> codes, residual codes (when there is a residual codebook) and the
  /// decoded column, zero past the rows.
  void choose(std::int64_t position, const float* target, std::int32_t* codes, std::int32_t* residual_codes,
              float* quantized);

 private:
  void nearest(std::int64_t n, std::int64_t dim, std::int64_t k, const float* book, std::int32_t* codes);
  void greedy_residual(std::int64_t n, const ColumnBooks& column, const std::int32_t* codes,
                       std::int32_t* residual_codes);
  void joint(std::int64_t n, const ColumnBooks& column, std::int32_t* codes, std::int32_t* residual_codes);

  const Exec& exec_;
  const VqKernels vq_;
  const Part& part_;
  const VqBooks& books_;
  std::int64_t candidates_, rows_;
  std::vector<float> points_, rest_, distance_;
  std::vector<std::int32_t> candidate_, candidate_residual_, valid_;
};

// Entry points, each defined beside its like.
void column_loop(const Exec& exec, const VqSlice& slice, const VqBooks& books, const ColumnLoopOptions& options,
                 const float* factor, float* target, const VqCodes& codes, float* quantized);
void sweep(const Exec& exec, const VqSlice& slice, const VqBooks& books, std::int64_t candidates, const float* hessian,
           float* gradient, const VqCodes& codes, float* quantized);
void dots(const Exec& exec, const VqSlice& slice, const float* a, const float* b, bool combined, double* sums);
void collect_books(const Exec& exec, const VqSlice& slice, const VqCodes& codes, const float* scale, const float* g,
                   const float* diagonal, bool combined, double* sums);
void collect_columns(const Exec& exec, const VqSlice& slice, const VqBooks& books, const VqCodes& codes, const float* g,
                     const float* diagonal, bool combined, double* sums);

}  // namespace voronoi::kernels::slice
