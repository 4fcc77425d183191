// Reordering of second moments: each entry read and written once, bound by memory. Tiles through shared memory where
// rows and columns change places.
#include <cfloat>
#include <cmath>

#include "core/types.h"
#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/families.h"
#include "kernels/cuda/native.h"

namespace voronoi::kernels {
namespace gpu {
namespace {

constexpr int kTile = 32, kTileRows = 8;  // a block of 32 x 8 threads moves a tile of 32 x 32
constexpr int kThreads = 256;

/// Block (x, y): tile of rows blockIdx.y, columns blockIdx.x of the lower half, written there and mirrored.
__global__ void unpack_kernel(std::int64_t n, const float* lower, float* matrix) {
  if (blockIdx.x > blockIdx.y) return;
  __shared__ float tile[kTile][kTile + 1];
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.y) * kTile;
  const std::int64_t column0 = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const int x = static_cast<int>(threadIdx.x);
  for (int y = static_cast<int>(threadIdx.y); y < kTile; y += kTileRows) {
    const std::int64_t row = row0 + y, column = column0 + x;
    if (row >= n || column > row) continue;
    const float value = lower[row * (row + 1) / 2 + column];
    matrix[row * n + column] = value;
    tile[y][x] = value;
  }
  sync_threads();
  for (int y = static_cast<int>(threadIdx.y); y < kTile; y += kTileRows) {
    // Mirrored: row of the target = column of the source.
    const std::int64_t row = row0 + x, column = column0 + y;
    if (row < n && column < row) matrix[column * n + row] = tile[x][y];
  }
}

__global__ void get_diagonal_kernel(std::int64_t n, const float* matrix, float* diagonal) {
  for (std::int64_t i = global_thread(); i < n; i += global_threads()) diagonal[i] = matrix[i * (n + 1)];
}

__global__ void set_diagonal_kernel(std::int64_t n, const float* diagonal, float* matrix) {
  for (std::int64_t i = global_thread(); i < n; i += global_threads()) matrix[i * (n + 1)] = diagonal[i];
}

/// Block: one row of the target.
__global__ void permute_kernel(std::int64_t n, const float* matrix, const std::int32_t* perm, float* out) {
  const std::int64_t i = blockIdx.x;
  const float* source = matrix + perm[i] * n;
  for (std::int64_t j = threadIdx.x; j < n; j += blockDim.x) out[i * n + j] = source[perm[j]];
}

__global__ void reverse_kernel(std::int64_t n, const float* matrix, const std::int32_t* perm, double damping,
                               double* out) {
  const std::int64_t i = blockIdx.x;
  const float* source = matrix + perm[n - 1 - i] * n;
  for (std::int64_t j = threadIdx.x; j < n; j += blockDim.x) {
    double value = 0;
    if (j <= i) value = static_cast<double>(source[perm[n - 1 - j]]);
    if (j == i) value += damping;
    out[i * n + j] = value;
  }
}

__global__ void reverse_back_kernel(std::int64_t n, const double* lower, float* out, int* unsound) {
  const std::int64_t i = blockIdx.x;
  const double* source = lower + (n - 1 - i) * n;
  bool sound = true;
  for (std::int64_t j = threadIdx.x; j < n; j += blockDim.x) {
    const float value = j < i ? 0.0F : static_cast<float>(source[n - 1 - j]);
    out[i * n + j] = value;
    sound = sound && fabsf(value) <= FLT_MAX && (j != i || value > 0);
  }
  if (!sound) atomic_max(unsound, 1);
}

void unpack(const Exec& exec, std::int64_t n, const float* lower, float* matrix) {
  const std::int64_t tiles = core::ceil_div(n, kTile);
  launch(native(exec), unpack_kernel, grid_of(tiles, tiles), dim3(kTile, kTileRows), 0, n, lower, matrix);
}

void get_diagonal(const Exec& exec, std::int64_t n, const float* matrix, float* diagonal) {
  Native& gpu = native(exec);
  launch(gpu, get_diagonal_kernel, grid_for(gpu, n, kThreads), dim3(kThreads), 0, n, matrix, diagonal);
}

void set_diagonal(const Exec& exec, std::int64_t n, const float* diagonal, float* matrix) {
  Native& gpu = native(exec);
  launch(gpu, set_diagonal_kernel, grid_for(gpu, n, kThreads), dim3(kThreads), 0, n, diagonal, matrix);
}

void permute(const Exec& exec, std::int64_t n, const float* matrix, const std::int32_t* perm, float* out) {
  launch(native(exec), permute_kernel, grid_of(n), dim3(kThreads), 0, n, matrix, perm, out);
}

void reverse(const Exec& exec, std::int64_t n, const float* matrix, const std::int32_t* perm, double damping,
             double* out) {
  launch(native(exec), reverse_kernel, grid_of(n), dim3(kThreads), 0, n, matrix, perm, damping, out);
}

bool reverse_back(const Exec& exec, std::int64_t n, const double* lower, float* out) {
  Native& gpu = native(exec);
  const Scratch<int> unsound(gpu, 1);
  int found = 0;
  copy_in(gpu, &found, sizeof found, unsound.data());
  launch(gpu, reverse_back_kernel, grid_of(n), dim3(kThreads), 0, n, lower, out, unsound.data());
  copy_out(gpu, unsound.data(), sizeof found, &found);
  return found == 0;
}

}  // namespace
}  // namespace gpu

HessianKernels cuda_hessian_kernels() {
  return {gpu::unpack, gpu::get_diagonal, gpu::set_diagonal, gpu::permute, gpu::reverse, gpu::reverse_back};
}

}  // namespace voronoi::kernels
