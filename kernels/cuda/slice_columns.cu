#include <algorithm>
#include <numeric>

#include "kernels/cuda/column_search.cuh"
#include "kernels/cuda/slice_columns.h"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kOutlierBook = 1 << 30;  // what a slot holds beside a group's book; -1: nothing yet

/// The shared memory of a block; every array starts at a multiple of 16 bytes.
struct Space {
  float *main_slot, *residual_slot;  ///< fragments of a book
  float* tile;                       ///< [kColumnBlock, rows] targets, and of the columns behind what they owe
  float* diagonal;                   ///< [kColumnStep, kColumnStep] of the coupling
  float *points, *target, *chosen;   ///< [rows] of a column
  float *rest, *distance;            ///< [rows, candidates], [vectors, candidates] of a residual search
  int *candidates, *residuals;       ///< [vectors, candidates] results of the searches
  int *codes, *residual_codes;       ///< [vectors]
  SearchSpace search;
  std::int64_t floats = 0;

  /// base null: for the size alone.
  __host__ __device__ Space(const ColumnTask& task, float* base) {
    const auto take = [&](std::int64_t count) {
      float* at = base != nullptr ? base + floats : nullptr;
      floats += (count + 3) / 4 * 4;
      return at;
    };
    const auto take_ints = [&](std::int64_t count) { return reinterpret_cast<int*>(take(count)); };
    const std::int64_t rows = task.tile_rows, vectors = task.max_vectors;
    const std::int64_t second = task.residual.k > 0 ? task.candidates : 0;
    main_slot = take(task.main_slot);
    residual_slot = take(task.residual_slot);
    tile = take(kColumnBlock * rows);
    diagonal = take(kColumnStep * kColumnStep);
    points = take(rows);
    target = take(rows);
    chosen = take(rows);
    rest = take(rows * second);
    distance = take(vectors * second);
    candidates = take_ints(vectors * (second > 0 ? second : 1));
    residuals = take_ints(vectors * second);
    codes = take_ints(vectors);
    residual_codes = take_ints(second > 0 ? vectors : 0);
    search.kept = take(16 * task.point_tiles * kPointFloats);
    search.flagged = take_ints(16 * task.point_tiles * kColumnWarps);
    search.n_flagged = take_ints(1);
    search.warp_score = take(kColumnWarps);
    search.warp_index = take_ints(kColumnWarps);
  }
};
// What a step's columns owe the rest of their block needs the coupling, staged where kept scores are at other times.
static_assert(kColumnStep * kColumnBlock <= 16 * kPointFloats);

int fragment_floats(const Book& book) { return book.n_groups * group_floats(book.steps); }

/// The book's fragments in shared memory, copied unless `held` says that they are there; null where they do not fit.
__device__ __forceinline__ const float* hold_book(const Book& book, int which, int slot_floats, float* slot,
                                                  int& held) {
  const int count = book.n_groups * group_floats(book.steps);
  if (count > slot_floats) return nullptr;
  if (held != which) {
    sync_threads();
    for (int i = static_cast<int>(threadIdx.x) * 4; i < count; i += kColumnThreads * 4)
      cp_async_16(slot + i, book.fragments + i);
    cp_async_commit();
    cp_async_wait<0>();
    held = which;
  }
  return slot;
}

/// Exact row of centroid j.
__device__ __forceinline__ const float* row_of(const Book& book, int j) {
  return book.rows + static_cast<std::int64_t>(j) * row_floats(book.steps);
}

/// What a sweep keeps of a column: codes whose vector is no nearer become -1. A thread a vector.
__device__ __forceinline__ void drop_no_nearer(const Space& space, const float* quantized, int v, int n_vectors,
                                               int real) {
  for (int i = static_cast<int>(threadIdx.x); i < n_vectors; i += kColumnThreads) {
    float old_distance = 0, new_distance = 0;
    for (int r = i * v; r < (i + 1) * v && r < real; ++r) {
      const float a = space.target[r] - quantized[r], b = space.target[r] - space.chosen[r];
      old_distance += a * a;
      new_distance += b * b;
    }
    if (!(new_distance < old_distance)) space.codes[i] = -1;
  }
}

/// tile[to] -= sum over the step's columns of coupling[column, to] owed[column], for the rest of the block: the CPU
/// twin's product, one chain of fused multiply-adds an element.
__device__ __forceinline__ void spread_step(const Space& space, const float* coupling, std::int64_t n,
                                            std::int64_t begin, int step, int step_end, int columns, int rows) {
  const int depth = step_end - step, rest = columns - step_end;
  float* staged = space.search.kept;
  sync_threads();
  for (int i = static_cast<int>(threadIdx.x); i < depth * rest; i += kColumnThreads)
    staged[i / rest * kColumnBlock + i % rest] = coupling[(begin + step + i / rest) * n + begin + step_end + i % rest];
  sync_threads();
  for (int i = static_cast<int>(threadIdx.x); i < rest * rows; i += kColumnThreads) {
    const int to = i / rows, r = i % rows;
    float sum = 0;
#pragma unroll 4
    for (int j = 0; j < depth; ++j) sum = fmaf(staged[j * kColumnBlock + to], space.tile[(step + j) * rows + r], sum);
    space.tile[(step_end + to) * rows + r] -= sum;
  }
}

/// A block owns tile_rows rows over a block of columns: columns follow each other inside it, and rows depend on no
/// other block. Searching k centroids for 16 P vectors takes P k / 8 products of m16n8k8 a step of components, and a
/// minimum for each of 16 P k scores at 64 a cycle (k = 4096, P = 1: 0.6 us); 36 bytes a centroid of up to 8 components
/// come from shared memory at 128 bytes a cycle, which bounds at P = 1 (0.7 us), or from the second-level cache where
/// the book does not fit. Barriers and the second look add about 1 us a column.
template <int kSteps, int P>
__global__ void __launch_bounds__(kColumnThreads, 1) quantize_columns(ColumnTask task, std::int64_t first_column) {
  const Space space(task, dynamic_shared<float>());
  const int thread = static_cast<int>(threadIdx.x), rows = task.tile_rows;
  const std::int64_t n = task.in_features, row0 = static_cast<std::int64_t>(blockIdx.x) * rows;
  const std::int64_t begin = first_column + static_cast<std::int64_t>(blockIdx.y) * kColumnBlock;
  const int columns = n - begin < kColumnBlock ? static_cast<int>(n - begin) : kColumnBlock;
  // Of the tile's rows, those the matrices have, and those of them that are no padding.
  const int stored = task.width - row0 < rows ? static_cast<int>(task.width - row0) : rows;
  const int real = task.rows - row0 >= rows ? rows : task.rows > row0 ? static_cast<int>(task.rows - row0) : 0;

  for (int i = thread; i < columns * rows; i += kColumnThreads)
    space.tile[i] = i % rows < stored ? task.target[(begin + i / rows) * task.width + row0 + i % rows] : 0.0F;
  if (thread == 0) *space.search.n_flagged = 0;
  int main_held = -1, residual_held = -1;

  for (int c = 0; c < columns; ++c) {
    const std::int64_t column = begin + c, at0 = column * task.width + row0;
    const int step = c / kColumnStep * kColumnStep;
    const int step_end = step + kColumnStep < columns ? step + kColumnStep : columns;
    if (c == step && task.feedback)
      for (int i = thread; i < kColumnStep * kColumnStep; i += kColumnThreads) {
        const int from = step + i / kColumnStep, to = step + i % kColumnStep;
        space.diagonal[i] = from < columns && to < columns ? task.coupling[(begin + from) * n + begin + to] : 0.0F;
      }
    sync_threads();

    const bool outlier = column < task.outlier_size;
    const int group = outlier ? 0 : static_cast<int>((column - task.outlier_size) / task.group_size);
    const Book book = outlier ? task.outlier : book_at(task.main, group);
    const bool has_residual = !outlier && task.residual.k > 0;
    const Book second = has_residual ? book_at(task.residual, group) : Book{};
    const int v = book.dim, m = has_residual ? task.candidates : 1;
    const float scale = task.scale[column], bias = task.bias[column], inverse_scale = 1.0F / scale;
    const float inverse_own = task.feedback ? 1.0F / task.coupling[column * (n + 1)] : 0.0F;
    for (int r = thread; r < rows; r += kColumnThreads) {
      float value = space.tile[c * rows + r];
      if (task.feedback)
        for (int j = step; j < c; ++j)
          value -= space.diagonal[(j - step) * kColumnStep + c - step] * space.tile[j * rows + r];
      if (task.sweep)
        value = (r < stored ? task.quantized[at0 + r] : 0.0F) + value * inverse_own;
      else if (r < stored)
        task.target[at0 + r] = value;
      space.target[r] = value;
      space.points[r] = (value - bias) * inverse_scale;
    }

    // Vectors that hold rows; the last may be searched over its first components alone.
    const std::int64_t first_vector = row0 / v, whole = task.searched_rows / v;
    const int n_vectors = (real + v - 1) / v;
    const int tail = whole - first_vector < n_vectors ? static_cast<int>(whole - first_vector) : -1;
    const int valid = static_cast<int>(task.searched_rows - whole * v);
    for (int phase = 0; phase < (has_residual ? 2 : 1); ++phase) {
      const bool main = phase == 0;
      if (!main)
        for (int i = thread; i < n_vectors * m * v; i += kColumnThreads)
          space.rest[i] = space.points[i / v / m * v + i % v] - row_of(book, space.candidates[i / v])[i % v];
      const Book searched = main ? book : second;
      const float* fragments =
          main ? hold_book(book, outlier ? kOutlierBook : group, task.main_slot, space.main_slot, main_held)
               : hold_book(second, group, task.residual_slot, space.residual_slot, residual_held);
      const SearchPoints points{main ? space.points : space.rest, main ? n_vectors : n_vectors * m, main ? 1 : m, tail,
                                valid};
      sync_threads();
      search_column<kSteps, P>(space.search, searched, fragments, points, main ? m : 1,
                               main ? space.candidates : space.residuals, main ? nullptr : space.distance);
    }

    for (int i = thread; i < n_vectors; i += kColumnThreads) {
      int best = i * m;
      for (int j = i * m + 1; j < (i + 1) * m; ++j)
        if (space.distance[j] < space.distance[best]) best = j;
      space.codes[i] = space.candidates[best];
      if (has_residual) space.residual_codes[i] = space.residuals[best];
    }
    sync_threads();
    for (int r = thread; r < rows; r += kColumnThreads) {
      float value = 0;
      if (r < real) {
        value = row_of(book, space.codes[r / v])[r % v];
        if (has_residual) value += row_of(second, space.residual_codes[r / v])[r % v];
        value = value * scale + bias;
      }
      space.chosen[r] = value;
    }
    if (task.sweep) {
      sync_threads();
      drop_no_nearer(space, task.quantized + at0, v, n_vectors, real);
      sync_threads();
    }
    for (int r = thread; r < rows; r += kColumnThreads) {
      const float chosen = space.chosen[r];
      float owed = (space.target[r] - chosen) * inverse_own;
      if (task.sweep) owed = r < real && space.codes[r / v] >= 0 ? chosen - task.quantized[at0 + r] : 0.0F;
      if (r < stored && (!task.sweep || (r < real && space.codes[r / v] >= 0))) task.quantized[at0 + r] = chosen;
      if (!task.feedback) continue;
      space.tile[c * rows + r] = owed;
      if (r < stored) task.owed[c * task.width + row0 + r] = owed;
    }
    for (int i = thread; i < n_vectors; i += kColumnThreads) {
      if (space.codes[i] < 0) continue;
      const std::int64_t at = column * task.code_stride + first_vector + i;
      task.codes.main[at] = space.codes[i];
      if (has_residual) task.codes.residual[at] = space.residual_codes[i];
    }
    if (task.feedback && c + 1 == step_end && step_end < columns)
      spread_step(space, task.coupling, n, begin, step, step_end, columns, rows);
  }
}

template <int kSteps>
void launch_columns(Native& native, const ColumnTask& task, dim3 grid, std::int64_t begin) {
  if (task.point_tiles == 1)
    launch(native, quantize_columns<kSteps, 1>, grid, dim3(kColumnThreads), task.shared_bytes, task, begin);
  else
    launch(native, quantize_columns<kSteps, 2>, grid, dim3(kColumnThreads), task.shared_bytes, task, begin);
}

}  // namespace

void plan_columns(const Native& native, const VqSlice& slice, ColumnTask& task) {
  const bool outliers = slice.outlier_size > 0;
  const std::int64_t unit = outliers ? std::lcm(slice.v, slice.v0) : slice.v;
  const std::int64_t limit = native.shared_bytes_a_block / std::int64_t{sizeof(float)};
  const auto floats_left = [&](std::int64_t rows, int point_tiles) {
    task.point_tiles = point_tiles;
    task.tile_rows = static_cast<int>(rows);
    task.max_vectors = static_cast<int>(rows / (outliers ? std::min(slice.v, slice.v0) : slice.v));
    task.main_slot = task.residual_slot = 0;
    return limit - Space(task, nullptr).floats;
  };
  const auto rows_of = [&](int point_tiles) { return std::max(unit, 16 * point_tiles * slice.v / unit * unit); };
  std::int64_t rows = rows_of(1), left = floats_left(rows, 1);
  // Read from the second-level cache, a book is to serve twice the vectors.
  if (left < fragment_floats(task.main) && floats_left(rows_of(2), 2) >= 0)
    rows = rows_of(2), left = floats_left(rows, 2);
  else
    left = floats_left(rows, 1);
  while (left < 0 && rows > unit) left = floats_left(rows -= unit, 1);
  VORONOI_REQUIRE(left >= 0, "vector lengths whose common multiple needs more shared memory than a GPU has");
  for (const Book* book : {&task.main, &task.outlier})
    if (fragment_floats(*book) <= left) task.main_slot = std::max(task.main_slot, fragment_floats(*book));
  left -= task.main_slot;
  if (fragment_floats(task.residual) <= left) task.residual_slot = fragment_floats(task.residual);
  task.shared_bytes = Space(task, nullptr).floats * std::int64_t{sizeof(float)};
}

void run_columns(Native& native, const ColumnTask& task, std::int64_t begin) {
  const dim3 grid = grid_of(core::ceil_div(task.width, std::int64_t{task.tile_rows}),
                            task.feedback ? 1 : core::ceil_div(task.in_features, std::int64_t{kColumnBlock}));
  if (task.main.steps == 1)
    launch_columns<1>(native, task, grid, begin);
  else
    launch_columns<2>(native, task, grid, begin);
}

}  // namespace voronoi::kernels::gpu
