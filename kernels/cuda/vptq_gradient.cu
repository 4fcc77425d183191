// The gradient of the numbers of a linear packed in VPTQ's layout.
//
// Sums into codebooks are fixed-point integers: added by atomics they do not depend on the order. A first pass over the
// weights finds the largest term, which decides where the point stands, and sums what belongs to the columns; a second
// one adds the terms. Floor: 4 bytes a weight and pass; the atomics' bound is 8 bytes of L2 a weight and codebook.
#include "core/packing.h"
#include "kernels/cuda/fixed_sums.cuh"
#include "kernels/cuda/native.h"
#include "kernels/cuda/vptq_vectors.cuh"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kPartRows = 32;  // vector rows with sums of their own

/// Codebooks as one array.
struct Books {
  std::int64_t residual, outlier, size;  ///< where those begin
  explicit Books(const PackedVptq& p)
      : residual(p.groups * (p.v << p.main_bits)),
        outlier(residual + (p.residual_bits > 0 ? p.groups * (p.v << p.residual_bits) : 0)),
        size(outlier + (p.outlier_size > 0 ? p.k0 * p.v0 : 0)) {}
};

/// Block (columns, part): column_sums [part][scale, bias][in, natural order] of kPartRows vector rows, and the largest
/// magnitude of d_weight times scale.
__global__ void __launch_bounds__(kThreads)
    column_gradient_kernel(VectorLayout layout, TunedNumbers numbers, const float* d_weight, float* column_sums,
                           int* largest) {
  __shared__ int block_largest;
  if (threadIdx.x == 0) block_largest = 0;
  sync_threads();
  const std::int64_t stored = global_thread(), n = layout.p.in_features;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kPartRows;
  const std::int64_t end = first + kPartRows < layout.vector_rows ? first + kPartRows : layout.vector_rows;
  if (stored < n) {
    const std::int64_t column = layout.natural(stored);
    const float scale = numbers.scale(column);
    float scale_sum = 0, bias_sum = 0;
    std::uint32_t most = 0;
    for (std::int64_t r = first; r < end; ++r) {
      const float* d = d_weight + r * layout.p.v * n + column;
      look_up(layout, numbers, r, stored, [&](std::int64_t i, float value) {
        const float slope = d[i * n];
        scale_sum += slope * value;
        bias_sum += slope;
        most = larger_magnitude(most, slope * scale);
      });
    }
    float* target = column_sums + blockIdx.y * (2 * n) + column;
    target[0] = scale_sum;
    target[n] = bias_sum;
    atomic_max(&block_largest, static_cast<int>(most));
  }
  sync_threads();
  if (threadIdx.x == 0) atomic_max(largest, block_largest);
}

/// Adds the terms of a vector to the sums of its centroids.
struct AddTerms {
  const Books& books;
  const float* d;
  std::int64_t n;
  float scale;
  double factor;
  Fixed* sums;

  __device__ void add(std::int64_t place, std::int64_t i) const { add_fixed(d[i * n] * scale, factor, sums + place); }
  __device__ void outlier(std::int64_t i, std::int64_t place) const { add(books.outlier + place, i); }
  __device__ void centroid(std::int64_t i, std::int64_t main, std::int64_t residual) const {
    add(main, i);
    if (residual >= 0) add(books.residual + residual, i);
  }
};

__global__ void __launch_bounds__(kThreads)
    codebook_gradient_kernel(VectorLayout layout, Books books, FixedPoint point, TunedNumbers numbers,
                             const float* d_weight, const int* largest, Fixed* sums) {
  const std::int64_t stored = global_thread(), n = layout.p.in_features;
  if (stored >= n || !FixedPoint::finite(*largest)) return;
  const std::int64_t column = layout.natural(stored);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kPartRows;
  const std::int64_t end = first + kPartRows < layout.vector_rows ? first + kPartRows : layout.vector_rows;
  const float scale = numbers.scale(column);
  const double factor = point.factor(*largest);
  for (std::int64_t r = first; r < end; ++r)
    visit_vector(layout, r, stored, AddTerms{books, d_weight + r * layout.p.v * n + column, n, scale, factor, sums});
}

/// Adds the sums to where they belong; NaN where a term was not finite: no number of a codebook is to hide it.
__global__ void __launch_bounds__(kThreads)
    add_sums_kernel(Books books, FixedPoint point, std::int64_t n, std::int64_t n_parts, const Fixed* sums,
                    const int* largest, const float* column_sums, VptqGradient target) {
  for (std::int64_t i = global_thread(); i < books.size + 2 * n; i += global_threads()) {
    if (i < books.size) {
      float* place = i < books.residual  ? target.codebook + i
                     : i < books.outlier ? target.residual_codebook + (i - books.residual)
                                         : target.outlier_codebook + (i - books.outlier);
      *place += point.value(sums[i], *largest);
      continue;
    }
    const std::int64_t column = i - books.size;
    float total = 0;
    for (std::int64_t part = 0; part < n_parts; ++part) total += column_sums[part * (2 * n) + column];
    if (column < n)
      target.scale[column] += total;
    else
      target.bias[column - n] += total;
  }
}

}  // namespace

void vptq_gradient(const Exec& exec, const TunedVptq& tuned, const float* d_weight, const VptqGradient& sum) {
  Native& gpu = native(exec);
  const VectorLayout layout(tuned.packed);
  const Books books(tuned.packed);
  const std::int64_t n = tuned.packed.in_features, n_parts = core::ceil_div(layout.vector_rows, kPartRows);
  // No sum has more terms than the matrix has weights.
  const FixedPoint point = fixed_point(n * tuned.packed.out_features);
  const Scratch<float> column_sums(gpu, n_parts * 2 * n);
  const Scratch<Fixed> sums(gpu, books.size);
  const Scratch<int> largest(gpu, 1);
  VORONOI_CUDA_CHECK(cudaMemsetAsync(largest.data(), 0, sizeof(int), gpu.stream));
  VORONOI_CUDA_CHECK(cudaMemsetAsync(sums.data(), 0, static_cast<std::size_t>(books.size) * sizeof(Fixed), gpu.stream));
  const dim3 grid = grid_of(core::ceil_div(n, kThreads), n_parts);
  launch(gpu, column_gradient_kernel, grid, dim3(kThreads), 0, layout, TunedNumbers{tuned}, d_weight,
         column_sums.data(), largest.data());
  launch(gpu, codebook_gradient_kernel, grid, dim3(kThreads), 0, layout, books, point, TunedNumbers{tuned}, d_weight,
         largest.data(), sums.data());
  launch(gpu, add_sums_kernel, grid_for(gpu, books.size + 2 * n, kThreads), dim3(kThreads), 0, books, point, n, n_parts,
         sums.data(), largest.data(), column_sums.data(), sum);
}

}  // namespace voronoi::kernels::gpu
