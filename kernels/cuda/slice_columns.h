// One block of columns of the column loop or the sweep, for all rows of a slice: one kernel, no launch a column.
#pragma once

#include <cstdint>

#include "kernels/cuda/vq_book.h"
#include "kernels/vq_slice.h"

namespace voronoi::kernels::gpu {

// As the CPU twin: columns whose effect on the others is held back and made up for in one product; inside, columns go
// in smaller steps of the same kind.
inline constexpr int kColumnBlock = 128, kColumnStep = 16;

struct ColumnTask {
  std::int64_t in_features = 0, rows = 0, width = 0, searched_rows = 0, code_stride = 0, outlier_size = 0,
               group_size = 0;
  Book main, residual, outlier;  ///< of the first group; residual.k == 0: none, outlier.k == 0: none
  const float* scale = nullptr;
  const float* bias = nullptr;
  int candidates = 1;
  bool sweep = false, feedback = true;
  const float* coupling = nullptr;  ///< [in_features, in_features]: the factor, or the Hessian of a sweep
  float* target = nullptr;          ///< [in_features, width]: target, or the gradient of a sweep (read only)
  float* owed = nullptr;            ///< [kColumnBlock, width]: the block's errors, or changes of a sweep
  VqCodes codes;
  float* quantized = nullptr;
  // Tile of rows of a block, a multiple of both vector lengths, and its shared memory.
  int tile_rows = 0, point_tiles = 1;
  int main_slot = 0, residual_slot = 0;  ///< floats kept for a book's fragments; 0: read from the second-level cache
  int max_vectors = 0;                   ///< of a column of the tile
  std::int64_t shared_bytes = 0;
};

/// Chooses tile and shared memory: books stay in shared memory where they fit.
void plan_columns(const Native& native, const VqSlice& slice, ColumnTask& task);

/// Columns [begin, begin + kColumnBlock), or without feedback all of them.
void run_columns(Native& native, const ColumnTask& task, std::int64_t begin);

}  // namespace voronoi::kernels::gpu
