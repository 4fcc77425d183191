// Diagonals, packed triangles and sums, for trees of Hessians and gradients. Bound by memory: a value is read and
// written once.
#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/linalg_triangle.h"
#include "kernels/cuda/native.h"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) diagonal_kernel(std::int64_t n, const double* full, double* diagonal) {
  const std::int64_t i = global_thread();
  if (i < n) diagonal[i] = full[i * (n + 1)];
}

/// A block a row, the longest first.
__global__ void __launch_bounds__(kThreads) pack_lower_kernel(std::int64_t n, const double* full, double* packed) {
  const std::int64_t row = n - 1 - blockIdx.x;
  const double* from = full + row * n;
  double* to = packed + row * (row + 1) / 2;
  for (std::int64_t i = threadIdx.x; i <= row; i += kThreads) to[i] = from[i];
}

__global__ void __launch_bounds__(kThreads) add_f64_kernel(std::int64_t n, const double* y, double* x) {
  for (std::int64_t i = global_thread(); i < n; i += global_threads()) x[i] += y[i];
}

__global__ void __launch_bounds__(kThreads) widen_f64_kernel(std::int64_t n, const float* y, double* x) {
  for (std::int64_t i = global_thread(); i < n; i += global_threads()) x[i] = static_cast<double>(y[i]);
}

}  // namespace

void diagonal_f64(const Exec& exec, std::int64_t n, const double* full, double* diagonal) {
  launch(native(exec), diagonal_kernel, grid_of(core::ceil_div(n, kThreads)), dim3(kThreads), 0, n, full, diagonal);
}

void pack_lower_f64(const Exec& exec, std::int64_t n, const double* full, double* packed) {
  launch(native(exec), pack_lower_kernel, grid_of(n), dim3(kThreads), 0, n, full, packed);
}

void add_f64(const Exec& exec, std::int64_t n, const double* y, double* x) {
  Native& open = native(exec);
  launch(open, add_f64_kernel, grid_for(open, n, kThreads), dim3(kThreads), 0, n, y, x);
}

void widen_f64(const Exec& exec, std::int64_t n, const float* y, double* x) {
  Native& open = native(exec);
  launch(open, widen_f64_kernel, grid_for(open, n, kThreads), dim3(kThreads), 0, n, y, x);
}

}  // namespace voronoi::kernels::gpu
