// One block of columns of the column loop or the sweep, for all rows of a slice: one kernel, no launch a column.
#pragma once

#include <cstdint>

#include "kernels/cuda/vq_book.h"
#include "kernels/vq_slice.h"

namespace voronoi::kernels::gpu {

/// Where the arrays of a block stand in its shared memory, in floats; each at a multiple of 16 bytes.
struct ColumnSpace {
  int now;                       ///< [2] ColumnNow: of a column and of the one before
  int main_slot, residual_slot;  ///< fragments of a book
  int tile;                      ///< [kColumnBlock, rows] targets, and of the columns behind what they owe
  int diagonal;                  ///< [kColumnStep, kColumnStep] of the coupling
  int points, target, chosen;    ///< [rows] of a column
  int rest, distance;            ///< [rows, candidates], [vectors, candidates] of a residual search
  int candidates, residuals;     ///< [vectors, candidates], ints: results of the searches
  int codes, residual_codes;     ///< [vectors], ints
  int search;                    ///< SearchSpace
  int floats;                    ///< all of it
};

/// What all threads need to know of a column: in shared memory, for want of registers.
struct ColumnNow {
  Book main, residual;
  float scale, bias, inverse_scale, inverse_own;
  int which;  ///< group, or kOutlierBook
  bool has_residual;
  int candidates;   ///< for each vector; 1 without a residual book
  int n_vectors;    ///< of the tile that hold rows
  int tail, valid;  ///< vector that is searched over its first `valid` components alone; -1: none
};

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
  // What plan_columns() chooses.
  int tile_rows = 0;                     ///< of a block: a multiple of both vector lengths
  int point_tiles = 1;                   ///< of 16 vectors that are searched together
  int max_vectors = 0;                   ///< of a column of the tile
  int main_slot = 0, residual_slot = 0;  ///< floats kept for a book's fragments; 0: read from the second-level cache
  ColumnSpace space;
};

/// Chooses tile and shared memory: books stay in shared memory where they fit.
void plan_columns(const Native& native, const VqSlice& slice, ColumnTask& task);

/// Columns [begin, begin + kColumnBlock), or without feedback all of them.
void run_columns(Native& native, const ColumnTask& task, std::int64_t begin);

}  // namespace voronoi::kernels::gpu
