// What the CPU twins of kernels/vq_slice.h share. Sums are made part by part, as the slice is divided. Loops over
// columns have strips of their own: one thread runs a strip from the first column to the last, on copies of what it
// reads and writes often.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/cpu/packed_panels.h"
#include "kernels/kernels.h"

namespace voronoi::kernels::slice {

/// Rows [row, row + rows) of a slice, a part or a strip of it, and the padding behind the last of them.
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

/// The slice in strips for `n_threads`: whole vectors of both lengths, where it can be whole registers of them, and no
/// more than kCpuStripRows. What is computed of a row does not depend on the rows beside it.
std::vector<Part> strips_of(const VqSlice& slice, int n_threads);

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

/// The centroids of all books as the search loops read them, made once for a pass over the columns.
class PackedBooks {
 public:
  /// searched_padding: zeros past the rows take part in distances.
  PackedBooks(const Exec& exec, const VqSlice& slice, const VqBooks& books, bool searched_padding);

  struct Book {
    vq::PackedPanels whole;
    /// For a column's last vector where only `tail_rows` of its rows exist; 0: there is none such.
    std::optional<vq::PackedPanels> tail;
    std::int64_t tail_rows = 0;
  };
  const Book& main(std::int64_t position) const {
    return slice_.is_outlier(position) ? *outlier_ : *main_[static_cast<std::size_t>(slice_.group_of(position))];
  }
  const Book& residual(std::int64_t position) const {
    return *residual_[static_cast<std::size_t>(slice_.group_of(position))];
  }

 private:
  const VqSlice& slice_;
  std::vector<std::optional<Book>> main_, residual_;
  std::optional<Book> outlier_;
};

/// Chooses codes for the columns of one strip; owns its scratch, so a thread makes its own.
class ColumnSearch {
 public:
  ColumnSearch(const Part& strip, const VqBooks& books, const PackedBooks& packed, std::int64_t candidates);

  /// target [width] in the operator's units -> codes, residual codes (when there is a residual codebook) and the
  /// decoded column, zero past the rows.
  void choose(std::int64_t position, const float* target, std::int32_t* codes, std::int32_t* residual_codes,
              float* quantized);

 private:
  /// Whether the last of n vectors of the column is a tail.
  bool ends_in_tail(std::int64_t n, const PackedBooks::Book& book) const;
  /// What a search for a tail needs: zeros past the rows.
  void clear_tail(std::int64_t n, const PackedBooks::Book& book);
  void nearest(std::int64_t n, const PackedBooks::Book& book, std::int32_t* codes) const;
  void greedy_residual(std::int64_t n, const ColumnBooks& column, const PackedBooks::Book& book,
                       const std::int32_t* codes, std::int32_t* residual_codes);
  void joint(std::int64_t n, const ColumnBooks& column, const PackedBooks::Book& main,
             const PackedBooks::Book& residual, std::int32_t* codes, std::int32_t* residual_codes);

  const Part strip_;
  const VqBooks& books_;
  const PackedBooks& packed_;
  std::int64_t candidates_;
  std::vector<float> points_, rest_, distance_;
  std::vector<std::int32_t> candidate_, candidate_residual_;
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
