// One operation for every value of the rows of a matrix.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/types.h"
#include "kernels/cuda/intrinsics.cuh"
#include "kernels/cuda/native.h"

namespace voronoi::kernels::gpu {

constexpr int kRowThreads = 256;
/// More blocks than this walk on in a loop.
constexpr std::int64_t kRowBlocks = 1 << 20;
/// Columns that a block takes of a row.
constexpr std::int64_t kRowPiece = 4 * kRowThreads;

/// operation(row, column) for each of n_rows x n_columns.
template <class Operation>
__global__ void __launch_bounds__(kRowThreads)
    rows_kernel(std::int64_t n_rows, std::int64_t n_columns, Operation operation) {
  const std::int64_t pieces = (n_columns + kRowPiece - 1) / kRowPiece;
  for (std::int64_t block = blockIdx.x; block < n_rows * pieces; block += gridDim.x) {
    const std::int64_t row = block / pieces, first = block % pieces * kRowPiece;
    const std::int64_t last = first + kRowPiece < n_columns ? first + kRowPiece : n_columns;
    for (std::int64_t column = first + threadIdx.x; column < last; column += kRowThreads) operation(row, column);
  }
}

template <class Operation>
void for_rows(const Exec& exec, std::int64_t n_rows, std::int64_t n_columns, Operation operation) {
  if (n_rows <= 0 || n_columns <= 0) return;
  const std::int64_t blocks = std::min(kRowBlocks, n_rows * core::ceil_div(n_columns, kRowPiece));
  launch(native(exec), rows_kernel<Operation>, grid_of(blocks), dim3(kRowThreads), 0, n_rows, n_columns, operation);
}

}  // namespace voronoi::kernels::gpu
