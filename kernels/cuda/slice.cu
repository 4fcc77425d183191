// The column loop and the sweep, block of columns by block, and the table of the family.
#include <algorithm>

#include "kernels/cuda/families.h"
#include "kernels/cuda/gemm_chain.h"
#include "kernels/cuda/slice_columns.h"
#include "kernels/cuda/slice_family.h"

namespace voronoi::kernels::gpu {
namespace {

/// The books of a slice laid out for searches, and what both passes share.
class Columns {
 public:
  Columns(Native& native, const VqSlice& slice, const VqBooks& books, std::int64_t candidates,
          std::int64_t searched_rows, const VqCodes& codes, float* quantized)
      : native_(native),
        steps_(step_count(std::max(slice.v, slice.outlier_size > 0 ? slice.v0 : 1))),
        main_(native, slice.groups, slice.v, slice.k, books.main, steps_, Halves::compact, searched_rows % slice.v),
        residual_(native, books.residual != nullptr ? slice.groups : 0, slice.v, std::max<std::int64_t>(slice.kr, 1),
                  books.residual, steps_, Halves::compact, searched_rows % slice.v),
        outlier_(native, slice.outlier_size > 0 ? 1 : 0, slice.v0, std::max<std::int64_t>(slice.k0, 1), books.outlier,
                 steps_, Halves::compact, searched_rows % slice.v0),
        owed_(native, kColumnBlock * slice.width) {
    task.in_features = slice.in_features;
    task.rows = slice.rows;
    task.width = slice.width;
    task.searched_rows = searched_rows;
    task.code_stride = slice.code_stride;
    task.outlier_size = slice.outlier_size;
    task.group_size = slice.group_size;
    task.main = main_.first();
    if (books.residual != nullptr) task.residual = residual_.first();
    if (slice.outlier_size > 0) task.outlier = outlier_.first();
    task.scale = books.scale;
    task.bias = books.bias;
    task.candidates = static_cast<int>(std::min(candidates, slice.k));
    task.owed = owed_.data();
    task.codes = codes;
    task.quantized = quantized;
    plan_columns(native, slice, task);
  }

  /// All blocks in order; columns [to, in_features) then take what the block owes them.
  template <class First>
  void run(const First& first_to_pay) {
    const std::int64_t n = task.in_features, width = task.width;
    for (std::int64_t begin = 0; begin < n; begin += kColumnBlock) {
      const std::int64_t end = std::min(n, begin + kColumnBlock), to = first_to_pay(end);
      run_columns(native_, task, begin);
      if (to < n)
        gemm_chain(native_,
                   MatrixProduct<float>{true, false, n - to, width, end - begin, -1.0F, task.coupling + begin * n + to,
                                        n, task.owed, width, 1.0F, task.target + to * width, width});
    }
  }

  ColumnTask task;

 private:
  Native& native_;
  int steps_;
  Books main_, residual_, outlier_;
  Scratch<float> owed_;
};

void require_lengths(const VqSlice& slice, std::int64_t candidates) {
  VORONOI_REQUIRE(
      slice.v >= 1 && slice.v <= 16 && slice.v0 >= 1 && slice.v0 <= 16 && candidates >= 1 && candidates <= kMaxNearest,
      "a GPU's column loop has vectors of 1 to 16 rows and 1 to 16 candidates");
}

void column_loop(const Exec& exec, const VqSlice& slice, const VqBooks& books, const ColumnLoopOptions& options,
                 const float* factor, float* target, const VqCodes& codes, float* quantized) {
  require_lengths(slice, options.candidates);
  if (slice.rows == 0) return;
  Native& open = native(exec);
  Columns columns(open, slice, books, options.candidates, options.padding_counts ? slice.width : slice.rows, codes,
                  quantized);
  columns.task.feedback = options.feedback;
  columns.task.coupling = factor;
  columns.task.target = target;
  if (options.feedback)
    columns.run([](std::int64_t end) { return end; });
  else
    run_columns(open, columns.task, 0);
}

void sweep(const Exec& exec, const VqSlice& slice, const VqBooks& books, std::int64_t candidates, const float* hessian,
           float* gradient, const VqCodes& codes, float* quantized) {
  require_lengths(slice, candidates);
  if (slice.rows == 0) return;
  Native& open = native(exec);
  Columns columns(open, slice, books, candidates, slice.rows, codes, quantized);
  columns.task.sweep = true;
  columns.task.coupling = hessian;
  columns.task.target = gradient;
  columns.run([](std::int64_t) { return std::int64_t{0}; });
}

}  // namespace
}  // namespace voronoi::kernels::gpu

namespace voronoi::kernels {

VqSliceKernels cuda_vq_slice_kernels() {
  return {.transpose = gpu::transpose,
          .decode = gpu::decode,
          .gather_training = gpu::gather_training,
          .column_loop = gpu::column_loop,
          .sweep = gpu::sweep,
          .subtract = gpu::subtract,
          .dots = gpu::dots,
          .collect_books = gpu::collect_books,
          .collect_columns = gpu::collect_columns,
          .pack = gpu::pack};
}

}  // namespace voronoi::kernels
