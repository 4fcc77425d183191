#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/types.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

void unpack(const Exec& exec, std::int64_t n, const float* lower, float* matrix) {
  constexpr std::int64_t kTile = 64;  // square tiles: the mirrored half is written a cache line at a time
  exec.pool->parallel_for(core::ceil_div(n, kTile), [&](std::int64_t tile_row) {
    const std::int64_t row_end = std::min(n, (tile_row + 1) * kTile);
    for (std::int64_t tile_column = 0; tile_column <= tile_row; ++tile_column)
      for (std::int64_t row = tile_row * kTile; row < row_end; ++row) {
        const float* values = lower + row * (row + 1) / 2;
        const std::int64_t column_end = std::min(row + 1, (tile_column + 1) * kTile);
        for (std::int64_t column = tile_column * kTile; column < column_end; ++column)
          matrix[row * n + column] = matrix[column * n + row] = values[column];
      }
  });
}

void get_diagonal(const Exec&, std::int64_t n, const float* matrix, float* diagonal) {
  for (std::int64_t i = 0; i < n; ++i) diagonal[i] = matrix[i * (n + 1)];
}

void set_diagonal(const Exec&, std::int64_t n, const float* diagonal, float* matrix) {
  for (std::int64_t i = 0; i < n; ++i) matrix[i * (n + 1)] = diagonal[i];
}

void permute(const Exec& exec, std::int64_t n, const float* matrix, const std::int32_t* perm, float* out) {
  exec.pool->parallel_for(n, [&](std::int64_t i) {
    const float* source = matrix + perm[i] * n;
    for (std::int64_t j = 0; j < n; ++j) out[i * n + j] = source[perm[j]];
  });
}

void reverse(const Exec& exec, std::int64_t n, const float* matrix, const std::int32_t* perm, double damping,
             double* out) {
  exec.pool->parallel_for(n, [&](std::int64_t i) {
    const float* source = matrix + perm[n - 1 - i] * n;
    double* target = out + i * n;
    for (std::int64_t j = 0; j <= i; ++j) target[j] = static_cast<double>(source[perm[n - 1 - j]]);
    target[i] += damping;
    std::fill(target + i + 1, target + n, 0.0);
  });
}

bool reverse_back(const Exec& exec, std::int64_t n, const double* lower, float* out) {
  std::atomic<bool> sound{true};
  exec.pool->parallel_for(n, [&](std::int64_t i) {
    const double* source = lower + (n - 1 - i) * n;
    float* target = out + i * n;
    std::fill(target, target + i, 0.0F);
    bool finite = true;
    for (std::int64_t j = i; j < n; ++j) {
      target[j] = static_cast<float>(source[n - 1 - j]);
      finite = finite && std::isfinite(target[j]);
    }
    if (!finite || !(target[i] > 0)) sound = false;
  });
  return sound;
}

}  // namespace

HessianKernels cpu_hessian_kernels() {
  return {.unpack = unpack,
          .get_diagonal = get_diagonal,
          .set_diagonal = set_diagonal,
          .permute = permute,
          .reverse = reverse,
          .reverse_back = reverse_back};
}

}  // namespace voronoi::kernels
