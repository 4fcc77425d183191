#include <algorithm>
#include <numeric>

#include "kernels/cuda/column_search.cuh"
#include "kernels/cuda/slice_columns.h"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kOutlierBook = 1 << 30;  // what a slot holds beside a group's book; -1: nothing yet

ColumnSpace lay_out_space(const ColumnTask& task) {
  ColumnSpace space{};
  const auto take = [&](std::int64_t count) {
    const int at = space.floats;
    space.floats += static_cast<int>((count + 3) / 4 * 4);
    return at;
  };
  const std::int64_t rows = task.tile_rows, vectors = task.max_vectors;
  const std::int64_t second = task.residual.k > 0 ? task.candidates : 0;
  space.now = take(2 * std::int64_t{sizeof(ColumnNow) / sizeof(float)});
  space.main_slot = take(task.main_slot);
  space.residual_slot = take(task.residual_slot);
  space.tile = take(kColumnBlock * rows);
  space.diagonal = take(kColumnStep * kColumnStep);
  space.points = take(rows);
  space.target = take(rows);
  space.chosen = take(rows);
  space.rest = take(rows * second);
  space.distance = take(vectors * second);
  space.candidates = take(vectors * (second > 0 ? second : 1));
  space.residuals = take(vectors * second);
  space.codes = take(vectors);
  space.residual_codes = take(second > 0 ? vectors : 0);
  space.search = take(task.point_tiles == 1 ? SearchSpace<1>::kFloats : SearchSpace<2>::kFloats);
  return space;
}

/// The same as addresses: offsets are constants of the launch, so that no register holds one between its uses.
struct Space {
  const ColumnTask& task;

  __device__ __forceinline__ float* floats(int at) const { return dynamic_shared<float>() + at; }
  __device__ __forceinline__ int* ints(int at) const { return dynamic_shared<int>() + at; }
  __device__ __forceinline__ ColumnNow& now(int column) const {
    return reinterpret_cast<ColumnNow*>(floats(task.space.now))[column % 2];
  }
  __device__ __forceinline__ float* tile() const { return floats(task.space.tile); }
  __device__ __forceinline__ float* diagonal() const { return floats(task.space.diagonal); }
  __device__ __forceinline__ float* points() const { return floats(task.space.points); }
  __device__ __forceinline__ float* target() const { return floats(task.space.target); }
  __device__ __forceinline__ float* chosen() const { return floats(task.space.chosen); }
  __device__ __forceinline__ float* rest() const { return floats(task.space.rest); }
  __device__ __forceinline__ float* distance() const { return floats(task.space.distance); }
  __device__ __forceinline__ int* candidates() const { return ints(task.space.candidates); }
  __device__ __forceinline__ int* residuals() const { return ints(task.space.residuals); }
  __device__ __forceinline__ int* codes() const { return ints(task.space.codes); }
  __device__ __forceinline__ int* residual_codes() const { return ints(task.space.residual_codes); }
};
// What a step's columns owe the rest of their block needs the coupling, staged where kept scores are at other times.
static_assert(kColumnStep * kColumnBlock <= 16 * kPointFloats);

int fragment_floats(const Book& book) { return book.n_groups * group_floats(book.steps, book.halves); }

/// The book's fragments in shared memory, copied unless `held` says that they are there; null where they do not fit.
template <int kSteps>
__device__ __forceinline__ const float* hold_book(const Book& book, int which, int slot_floats, float* slot,
                                                  int& held) {
  const int count = book.n_groups * group_floats(kSteps, Halves::compact);
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
template <int kSteps>
__device__ __forceinline__ const float* row_of(const Book& book, int j) {
  return book.rows + static_cast<std::int64_t>(j) * row_floats(kSteps);
}

__device__ __forceinline__ void describe_column(const ColumnTask& task, std::int64_t column, std::int64_t row0,
                                                int real, ColumnNow& now) {
  const bool outlier = column < task.outlier_size;
  const int group = outlier ? 0 : static_cast<int>((column - task.outlier_size) / task.group_size);
  now.which = outlier ? kOutlierBook : group;
  now.main = outlier ? task.outlier : book_at(task.main, group);
  now.has_residual = !outlier && task.residual.k > 0;
  if (now.has_residual) now.residual = book_at(task.residual, group);
  now.candidates = now.has_residual ? task.candidates : 1;
  now.scale = task.scale[column];
  now.bias = task.bias[column];
  now.inverse_scale = 1.0F / now.scale;
  now.inverse_own = task.feedback ? 1.0F / task.coupling[column * (task.in_features + 1)] : 0.0F;
  const int v = now.main.dim;
  const std::int64_t whole = task.searched_rows / v, first = row0 / v;
  now.n_vectors = (real + v - 1) / v;
  now.tail = whole - first < now.n_vectors ? static_cast<int>(whole - first) : -1;
  now.valid = static_cast<int>(task.searched_rows - whole * v);
}

/// What a sweep keeps of a column: codes whose vector is no nearer become -1. A thread a vector.
__device__ __forceinline__ void drop_no_nearer(const Space& space, const float* quantized, int v, int n_vectors,
                                               int real) {
  for (int i = static_cast<int>(threadIdx.x); i < n_vectors; i += kColumnThreads) {
    float old_distance = 0, new_distance = 0;
    for (int r = i * v; r < (i + 1) * v && r < real; ++r) {
      const float a = space.target()[r] - quantized[r], b = space.target()[r] - space.chosen()[r];
      old_distance += a * a;
      new_distance += b * b;
    }
    if (!(new_distance < old_distance)) space.codes()[i] = -1;
  }
}

/// tile[to] -= sum over the step's columns of coupling[column, to] owed[column], for the rest of the block: the CPU
/// twin's product, one chain of fused multiply-adds an element.
__device__ __forceinline__ void spread_step(const Space& space, const float* coupling, std::int64_t n,
                                            std::int64_t begin, int step, int step_end, int columns, int rows) {
  const int depth = step_end - step, rest = columns - step_end;
  float* staged = space.floats(space.task.space.search);
  sync_threads();
  for (int i = static_cast<int>(threadIdx.x); i < depth * rest; i += kColumnThreads)
    staged[i / rest * kColumnBlock + i % rest] = coupling[(begin + step + i / rest) * n + begin + step_end + i % rest];
  sync_threads();
  for (int i = static_cast<int>(threadIdx.x); i < rest * rows; i += kColumnThreads) {
    const int to = i / rows, r = i % rows;
    float sum = 0;
#pragma unroll 4
    for (int j = 0; j < depth; ++j) sum = fmaf(staged[j * kColumnBlock + to], space.tile()[(step + j) * rows + r], sum);
    space.tile()[(step_end + to) * rows + r] -= sum;
  }
}

/// A block owns tile_rows rows over a block of columns: columns follow each other inside it, and rows depend on no
/// other block. Searching k centroids for 16 P vectors takes P k / 8 products of m16n8k8 a step of components, and a
/// minimum for each of 16 P k scores at 64 a cycle (k = 4096, P = 1: 0.6 us); 36 bytes a centroid of up to 8 components
/// come from shared memory at 128 bytes a cycle, which bounds at P = 1 (0.7 us), or from the second-level cache where
/// the book does not fit. Barriers and the second look add about 1 us a column.
template <int kSteps, int P>
__global__ void __launch_bounds__(kColumnThreads, 1) quantize_columns(ColumnTask task, std::int64_t first_column) {
  const Space space{task};
  const SearchSpace<P> search{space.floats(task.space.search)};
  const int thread = static_cast<int>(threadIdx.x), rows = task.tile_rows;
  const std::int64_t n = task.in_features, row0 = static_cast<std::int64_t>(blockIdx.x) * rows;
  const std::int64_t begin = first_column + static_cast<std::int64_t>(blockIdx.y) * kColumnBlock;
  const int columns = n - begin < kColumnBlock ? static_cast<int>(n - begin) : kColumnBlock;
  // Of the tile's rows, those the matrices have, and those of them that are no padding.
  const int stored = task.width - row0 < rows ? static_cast<int>(task.width - row0) : rows;
  const int real = task.rows - row0 >= rows ? rows : task.rows > row0 ? static_cast<int>(task.rows - row0) : 0;

  for (int i = thread; i < columns * rows; i += kColumnThreads)
    space.tile()[i] = i % rows < stored ? task.target[(begin + i / rows) * task.width + row0 + i % rows] : 0.0F;
  if (thread == 0) *search.n_flagged() = 0;
  int main_held = -1, residual_held = -1;

  for (int c = 0; c < columns; ++c) {
    const std::int64_t column = begin + c, at0 = column * task.width + row0;
    const int step = c / kColumnStep * kColumnStep;
    const int step_end = step + kColumnStep < columns ? step + kColumnStep : columns;
    if (c == step && task.feedback)
      for (int i = thread; i < kColumnStep * kColumnStep; i += kColumnThreads) {
        const int from = step + i / kColumnStep, to = step + i % kColumnStep;
        space.diagonal()[i] = from < columns && to < columns ? task.coupling[(begin + from) * n + begin + to] : 0.0F;
      }
    if (thread == 0) describe_column(task, column, row0, real, space.now(c));
    sync_threads();

    const ColumnNow& now = space.now(c);
    for (int r = thread; r < rows; r += kColumnThreads) {
      float value = space.tile()[c * rows + r];
      if (task.feedback)
        for (int j = step; j < c; ++j)
          value -= space.diagonal()[(j - step) * kColumnStep + c - step] * space.tile()[j * rows + r];
      if (task.sweep)
        value = (r < stored ? task.quantized[at0 + r] : 0.0F) + value * now.inverse_own;
      else if (r < stored)
        task.target[at0 + r] = value;
      space.target()[r] = value;
      space.points()[r] = (value - now.bias) * now.inverse_scale;
    }

    for (int phase = 0; phase < (now.has_residual ? 2 : 1); ++phase) {
      const bool main = phase == 0;
      const int v = now.main.dim, m = now.candidates;
      if (!main)
        for (int i = thread; i < now.n_vectors * m * v; i += kColumnThreads)
          space.rest()[i] =
              space.points()[i / v / m * v + i % v] - row_of<kSteps>(now.main, space.candidates()[i / v])[i % v];
      const Book& searched = main ? now.main : now.residual;
      const int slot = main ? task.space.main_slot : task.space.residual_slot;
      const float* fragments = hold_book<kSteps>(searched, now.which, main ? task.main_slot : task.residual_slot,
                                                 space.floats(slot), main ? main_held : residual_held);
      const SearchPoints points{main ? space.points() : space.rest(), main ? now.n_vectors : now.n_vectors * m,
                                main ? 1 : m, now.tail, now.valid};
      sync_threads();
      search_column<kSteps, P>(search, searched, fragments, points, main ? m : 1,
                               main ? space.candidates() : space.residuals(), main ? nullptr : space.distance());
    }

    const int v = now.main.dim, n_vectors = now.n_vectors, m = now.candidates;
    for (int i = thread; i < n_vectors; i += kColumnThreads) {
      int best = i * m;
      for (int j = i * m + 1; j < (i + 1) * m; ++j)
        if (space.distance()[j] < space.distance()[best]) best = j;
      space.codes()[i] = space.candidates()[best];
      if (now.has_residual) space.residual_codes()[i] = space.residuals()[best];
    }
    sync_threads();
    for (int r = thread; r < rows; r += kColumnThreads) {
      float value = 0;
      if (r < real) {
        value = row_of<kSteps>(now.main, space.codes()[r / v])[r % v];
        if (now.has_residual) value += row_of<kSteps>(now.residual, space.residual_codes()[r / v])[r % v];
        value = value * now.scale + now.bias;
      }
      space.chosen()[r] = value;
    }
    if (task.sweep) {
      sync_threads();
      drop_no_nearer(space, task.quantized + at0, v, n_vectors, real);
      sync_threads();
    }
    for (int r = thread; r < rows; r += kColumnThreads) {
      const float chosen = space.chosen()[r];
      float owed = (space.target()[r] - chosen) * now.inverse_own;
      if (task.sweep) owed = r < real && space.codes()[r / v] >= 0 ? chosen - task.quantized[at0 + r] : 0.0F;
      if (r < stored && (!task.sweep || (r < real && space.codes()[r / v] >= 0))) task.quantized[at0 + r] = chosen;
      if (!task.feedback) continue;
      space.tile()[c * rows + r] = owed;
      if (r < stored) task.owed[c * task.width + row0 + r] = owed;
    }
    for (int i = thread; i < n_vectors; i += kColumnThreads) {
      if (space.codes()[i] < 0) continue;
      const std::int64_t at = column * task.code_stride + row0 / v + i;
      task.codes.main[at] = space.codes()[i];
      if (now.has_residual) task.codes.residual[at] = space.residual_codes()[i];
    }
    if (task.feedback && c + 1 == step_end && step_end < columns)
      spread_step(space, task.coupling, n, begin, step, step_end, columns, rows);
  }
}

template <int kSteps>
void launch_columns(Native& native, const ColumnTask& task, dim3 grid, std::int64_t begin) {
  const std::int64_t shared_bytes = task.space.floats * std::int64_t{sizeof(float)};
  if (task.point_tiles == 1)
    launch(native, quantize_columns<kSteps, 1>, grid, dim3(kColumnThreads), shared_bytes, task, begin);
  else
    launch(native, quantize_columns<kSteps, 2>, grid, dim3(kColumnThreads), shared_bytes, task, begin);
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
    return limit - lay_out_space(task).floats;
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
  task.space = lay_out_space(task);
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
