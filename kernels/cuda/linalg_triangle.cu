// Diagonals and sums, for trees of Hessians and gradients. Bound by memory: a value is read and
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

__global__ void __launch_bounds__(kThreads)
    packed_diagonal_kernel(std::int64_t n, const double* lower, double* diagonal) {
  const std::int64_t i = global_thread();
  if (i < n) diagonal[i] = lower[i * (i + 3) / 2];
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

void packed_diagonal_f64(const Exec& exec, std::int64_t n, const double* lower, double* diagonal) {
  launch(native(exec), packed_diagonal_kernel, grid_of(core::ceil_div(n, kThreads)), dim3(kThreads), 0, n, lower,
         diagonal);
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
