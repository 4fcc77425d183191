#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/types.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

void unpack(const Exec& exec, std::int64_t n, const float* lower, float* matrix) {
  constexpr std::int64_t kTile = 64;
  exec.pool->parallel_for(core::ceil_div(n, kTile), [&](std::int64_t tile_row) {
    // A square tile is mirrored here: rows of the matrix that lie a power of two apart share few places of the cache.
    float mirrored[kTile][kTile];
    const std::int64_t first_row = tile_row * kTile, n_rows = std::min(kTile, n - first_row);
    for (std::int64_t first = 0; first <= first_row; first += kTile) {
      for (std::int64_t i = 0; i < n_rows; ++i) {
        const std::int64_t row = first_row + i, n_columns = std::min(row + 1 - first, kTile);
        const float* values = lower + row * (row + 1) / 2 + first;
        std::copy_n(values, n_columns, matrix + row * n + first);
        for (std::int64_t j = 0; j < n_columns; ++j) mirrored[j][i] = values[j];
      }
      for (std::int64_t j = 0; j < std::min(kTile, n - first); ++j) {
        const std::int64_t above = first == first_row ? j : 0;  // on the diagonal: what lies below it is there
        std::copy(mirrored[j] + above, mirrored[j] + n_rows, matrix + (first + j) * n + first_row + above);
      }
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
