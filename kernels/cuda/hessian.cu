// Reordering of a second moment around its factorization. All bound by memory: 4 to 12 bytes a value of [n, n].
#include <algorithm>

#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/families.h"
#include "kernels/cuda/native.h"

namespace voronoi::kernels {
namespace {

using namespace gpu;

constexpr int kTile = 32, kTileRows = 8, kThreads = 256;

/// A block a tile of the lower triangle; the mirrored tile is written through shared memory, so that both are written
/// row by row.
__global__ void __launch_bounds__(kTile* kTileRows)
    unpack_tiles(std::int64_t n, const float* __restrict__ lower, float* __restrict__ matrix) {
  if (blockIdx.x > blockIdx.y) return;
  __shared__ float tile[kTile][kTile + 1];
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * kTile,
                     first_column = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const int x = static_cast<int>(threadIdx.x);
  for (int y = static_cast<int>(threadIdx.y); y < kTile; y += kTileRows) {
    const std::int64_t row = first_row + y, column = first_column + x;
    if (row >= n || column > row) continue;
    const float value = lower[row * (row + 1) / 2 + column];
    tile[y][x] = value;
    matrix[row * n + column] = value;
  }
  sync_threads();
  for (int y = static_cast<int>(threadIdx.y); y < kTile; y += kTileRows) {
    const std::int64_t row = first_column + y, column = first_row + x;
    if (column < n && row < column) matrix[row * n + column] = tile[x][y];
  }
}

__global__ void __launch_bounds__(kThreads) read_diagonal(std::int64_t n, const float* matrix, float* diagonal) {
  const std::int64_t i = global_thread();
  if (i < n) diagonal[i] = matrix[i * (n + 1)];
}

__global__ void __launch_bounds__(kThreads) write_diagonal(std::int64_t n, const float* diagonal, float* matrix) {
  const std::int64_t i = global_thread();
  if (i < n) matrix[i * (n + 1)] = diagonal[i];
}

/// A block a row: the reads of a row hit all its cache lines, whatever their order.
__global__ void __launch_bounds__(kThreads)
    permute_rows(std::int64_t n, const float* __restrict__ matrix, const std::int32_t* __restrict__ perm,
                 float* __restrict__ out) {
  const std::int64_t row = blockIdx.x;
  const float* source = matrix + static_cast<std::int64_t>(perm[row]) * n;
  for (std::int64_t j = threadIdx.x; j < n; j += kThreads) out[row * n + j] = source[perm[j]];
}

__global__ void __launch_bounds__(kThreads)
    reverse_rows(std::int64_t n, const float* __restrict__ matrix, const std::int32_t* __restrict__ perm,
                 double damping, double* __restrict__ out) {
  const std::int64_t row = blockIdx.x;
  const float* source = matrix + static_cast<std::int64_t>(perm[n - 1 - row]) * n;
  for (std::int64_t j = threadIdx.x; j < n; j += kThreads) {
    double value = j <= row ? static_cast<double>(source[perm[n - 1 - j]]) : 0.0;
    if (j == row) value += damping;
    out[row * n + j] = value;
  }
}

__global__ void __launch_bounds__(kThreads)
    reverse_back_rows(std::int64_t n, const double* __restrict__ lower, float* __restrict__ out, unsigned* unsound) {
  const std::int64_t row = blockIdx.x;
  const double* source = lower + (n - 1 - row) * n;
  bool sound = true;
  for (std::int64_t j = threadIdx.x; j < n; j += kThreads) {
    const float value = j >= row ? static_cast<float>(source[n - 1 - j]) : 0.0F;
    const bool finite = (float_bits(value) & 0x7F800000U) != 0x7F800000U;
    sound = sound && finite && (j != row || value > 0);
    out[row * n + j] = value;
  }
  if (!sound) atomic_or(unsound, 1U);
}

void unpack(const Exec& exec, std::int64_t n, const float* lower, float* matrix) {
  const std::int64_t tiles = core::ceil_div(n, kTile);
  launch(native(exec), unpack_tiles, grid_of(tiles, tiles), dim3(kTile, kTileRows), 0, n, lower, matrix);
}

void get_diagonal(const Exec& exec, std::int64_t n, const float* matrix, float* diagonal) {
  launch(native(exec), read_diagonal, grid_of(core::ceil_div(n, kThreads)), kThreads, 0, n, matrix, diagonal);
}

void set_diagonal(const Exec& exec, std::int64_t n, const float* diagonal, float* matrix) {
  launch(native(exec), write_diagonal, grid_of(core::ceil_div(n, kThreads)), kThreads, 0, n, diagonal, matrix);
}

void permute(const Exec& exec, std::int64_t n, const float* matrix, const std::int32_t* perm, float* out) {
  launch(native(exec), permute_rows, grid_of(n), kThreads, 0, n, matrix, perm, out);
}

void reverse(const Exec& exec, std::int64_t n, const float* matrix, const std::int32_t* perm, double damping,
             double* out) {
  launch(native(exec), reverse_rows, grid_of(n), kThreads, 0, n, matrix, perm, damping, out);
}

bool reverse_back(const Exec& exec, std::int64_t n, const double* lower, float* out) {
  Native& native = gpu::native(exec);
  const Scratch<unsigned> flag(native, 1);
  unsigned unsound = 0;
  copy_in(native, &unsound, sizeof unsound, flag.data());
  launch(native, reverse_back_rows, grid_of(n), kThreads, 0, n, lower, out, flag.data());
  copy_out(native, flag.data(), sizeof unsound, &unsound);
  return unsound == 0;
}

}  // namespace

HessianKernels cuda_hessian_kernels() {
  return {.unpack = unpack,
          .get_diagonal = get_diagonal,
          .set_diagonal = set_diagonal,
          .permute = permute,
          .reverse = reverse,
          .reverse_back = reverse_back};
}

}  // namespace voronoi::kernels
