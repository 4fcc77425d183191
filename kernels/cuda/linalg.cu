// Dense linear algebra: cuBLAS and cuSOLVER (blas.h) behind conversions and merges of our own.
#include <algorithm>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/families.h"
#include "kernels/cuda/gemm_chain.h"
#include "kernels/cuda/linalg_rows.h"
#include "kernels/cuda/linalg_triangle.h"
#include "kernels/cuda/native.h"

namespace voronoi::kernels {
namespace {

using namespace gpu;

constexpr int kThreads = 256;

// 16-bit and tf32 operands are written with rows of whole 16-byte units: the fast paths of cuBLAS ask for them.
std::int64_t padded(std::int64_t columns) { return core::ceil_div(columns, 8) * 8; }

/// out [n_rows, ld_out] = x rounded to 16 bits. Bound by memory: 6 bytes a value.
template <bool kBf16>
__global__ void round_rows(std::int64_t n_rows, std::int64_t n_columns, const float* __restrict__ x, std::int64_t ldx,
                           std::uint16_t* __restrict__ out, std::int64_t ld_out) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= n_columns) return;
  for (std::int64_t row = blockIdx.y; row < n_rows; row += gridDim.y) {
    const float value = x[row * ldx + column];
    out[row * ld_out + column] = kBf16 ? float_to_bf16(value) : float_to_f16(value);
  }
}

/// x = high + low + a rest of at most 2^-22 |x|, both parts tf32. An infinite or NaN x is high alone.
__global__ void split_rows(std::int64_t n_rows, std::int64_t n_columns, const float* __restrict__ x, std::int64_t ldx,
                           float* __restrict__ high, float* __restrict__ low, std::int64_t ld_out) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= n_columns) return;
  for (std::int64_t row = blockIdx.y; row < n_rows; row += gridDim.y) {
    const float value = x[row * ldx + column];
    const bool finite = (float_bits(value) & 0x7F800000U) != 0x7F800000U;
    // Towards zero where the nearest tf32 would be infinite.
    float head = bits_float(to_tf32(value));
    if (finite && (float_bits(head) & 0x7F800000U) == 0x7F800000U) head = bits_float(float_bits(value) & 0xFFFFE000U);
    high[row * ld_out + column] = head;
    low[row * ld_out + column] = finite ? bits_float(to_tf32(value - head)) : 0.0F;
  }
}

/// c = beta * c, for a product without depth.
template <class T>
__global__ void scale_rows(std::int64_t n_rows, std::int64_t n_columns, T beta, T* c, std::int64_t ldc) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= n_columns) return;
  for (std::int64_t row = blockIdx.y; row < n_rows; row += gridDim.y) {
    T& value = c[row * ldc + column];
    value = beta == T{0} ? T{0} : beta * value;
  }
}

/// The packed lower triangle sum[i, j] += panel[i - first, j - first] for first <= j < first + width, i >= j. Bound by
/// memory: 20 bytes a value.
__global__ void merge_panel(std::int64_t n, std::int64_t first, std::int64_t width, const float* __restrict__ panel,
                            std::int64_t ld_panel, double* __restrict__ sum) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= width) return;
  for (std::int64_t row = blockIdx.y; row < n - first; row += gridDim.y)
    if (row >= column)
      sum[(first + row) * (first + row + 1) / 2 + first + column] +=
          static_cast<double>(panel[row * ld_panel + column]);
}

dim3 grid_over(std::int64_t n_rows, std::int64_t n_columns) {
  constexpr std::int64_t kMostRows = 16384;
  return grid_of(core::ceil_div(n_columns, kThreads), std::min(kMostRows, n_rows));
}

void round_to_16(Native& native, core::DType dtype, std::int64_t n_rows, std::int64_t n_columns, const float* x,
                 std::int64_t ldx, std::uint16_t* out, std::int64_t ld_out) {
  VORONOI_REQUIRE(dtype == core::DType::f16 || dtype == core::DType::bf16, "a 16-bit float type is wanted");
  launch(native, dtype == core::DType::bf16 ? round_rows<true> : round_rows<false>, grid_over(n_rows, n_columns),
         kThreads, 0, n_rows, n_columns, x, ldx, out, ld_out);
}

/// An operand's rows (as it lies in memory) split into two tf32 each.
struct Split {
  Split(Native& native, std::int64_t n_rows, std::int64_t n_columns, const float* x, std::int64_t ldx)
      : ld(padded(n_columns)), high(native, n_rows * ld), low(native, n_rows * ld) {
    launch(native, split_rows, grid_over(n_rows, n_columns), kThreads, 0, n_rows, n_columns, x, ldx, high.data(),
           low.data(), ld);
  }
  std::int64_t ld;
  Scratch<float> high, low;
};

// Values of a slab of A or B that are split at a time: 4 x 256 MiB of scratch memory in all.
constexpr std::int64_t kSplitValues = std::int64_t{64} << 20;

/// fp32 products on tensor cores as high high + high low + low high of operands split into two tf32 each, about 2.5
/// times as fast as fp32 units on an H100. Against the exact product each a_i b_i is off by at most 3 * 2^-22 |a_i b_i|
/// (two rests and low low), and the fp32 sums round towards zero: (3 * 2^-22 + 3 k 2^-23) |A| |B| in all. An infinite
/// operand may give NaN where fp32 gives infinity.
void gemm_f32_split(Native& native, const MatrixProduct<float>& p) {
  const std::int64_t slab = std::max<std::int64_t>(8, kSplitValues / p.k / 8 * 8);
  for (std::int64_t i = 0; i < p.m; i += slab) {
    const std::int64_t m = std::min(slab, p.m - i);
    const Split a(native, p.transpose_a ? p.k : m, p.transpose_a ? m : p.k, p.a + i * (p.transpose_a ? 1 : p.lda),
                  p.lda);
    for (std::int64_t j = 0; j < p.n; j += slab) {
      const std::int64_t n = std::min(slab, p.n - j);
      const Split b(native, p.transpose_b ? n : p.k, p.transpose_b ? p.k : n, p.b + j * (p.transpose_b ? p.ldb : 1),
                    p.ldb);
      // The small terms first.
      MatrixProduct<float> part{
          p.transpose_a, p.transpose_b,       m,    n, p.k, p.alpha, a.low.data(), a.ld, b.high.data(), b.ld,
          p.beta,        p.c + i * p.ldc + j, p.ldc};
      native.blas->gemm_tf32(part);
      part.beta = 1.0F;
      part.a = a.high.data();
      part.b = b.low.data();
      native.blas->gemm_tf32(part);
      part.b = b.high.data();
      native.blas->gemm_tf32(part);
    }
  }
}

/// By the shape alone, so that equal calls give equal bits: from here on the split pays for its passes over A and B.
bool pays_to_split(std::int64_t m, std::int64_t n, std::int64_t k) {
  constexpr std::int64_t kLeastExtent = 192;
  return std::min({m, n, k}) >= kLeastExtent;
}

void multiply(Native& native, const MatrixProduct<float>& product) {
  if (pays_to_split(product.m, product.n, product.k)) return gemm_f32_split(native, product);
  native.blas->gemm(product);
}

template <class T>
void gemm(const Exec& exec, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, T alpha,
          const T* a, std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc) {
  VORONOI_REQUIRE(m >= 0 && n >= 0 && k >= 0, "a matrix extent is negative");
  Native& native = gpu::native(exec);
  if (m == 0 || n == 0) return;
  if (k == 0) return launch(native, scale_rows<T>, grid_over(m, n), kThreads, 0, m, n, beta, c, ldc);
  const MatrixProduct<T> product{transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc};
  if constexpr (sizeof(T) == 8) return native.blas->gemm(product);
  // The columns of a B that lies as it is are rows of an operator, of which a rank may hold any part; a transposed one
  // is a layer's weight, whole on every rank.
  else if (transpose_b)
    multiply(native, product);
  else
    gemm_chain(native, product);
}

template <bool kTransposeW>
void gemm_16(const Exec& exec, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda,
             core::DType dtype, const std::uint16_t* w, std::int64_t ldw, float beta, float* c, std::int64_t ldc) {
  VORONOI_REQUIRE(m >= 0 && n >= 0 && k >= 0, "a matrix extent is negative");
  Native& native = gpu::native(exec);
  if (m == 0 || n == 0) return;
  if (k == 0) return launch(native, scale_rows<float>, grid_over(m, n), kThreads, 0, m, n, beta, c, ldc);
  const Scratch<std::uint16_t> rounded(native, m * padded(k));
  round_to_16(native, dtype, m, k, a, lda, rounded.data(), padded(k));
  native.blas->gemm_16(dtype, false, kTransposeW, m, n, k, rounded.data(), padded(k), w, ldw, beta, c, ldc);
}

void gemm_16_outer(const Exec& exec, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda,
                   const float* b, std::int64_t ldb, core::DType dtype, float* c, std::int64_t ldc) {
  VORONOI_REQUIRE(m >= 0 && n >= 0 && k >= 0, "a matrix extent is negative");
  Native& native = gpu::native(exec);
  if (m == 0 || n == 0) return;
  if (k == 0) return launch(native, scale_rows<float>, grid_over(m, n), kThreads, 0, m, n, 0.0F, c, ldc);
  const Scratch<std::uint16_t> left(native, k * padded(m)), right(native, k * padded(n));
  round_to_16(native, dtype, k, m, a, lda, left.data(), padded(m));
  round_to_16(native, dtype, k, n, b, ldb, right.data(), padded(n));
  native.blas->gemm_16(dtype, true, false, m, n, k, left.data(), padded(m), right.data(), padded(n), 0.0F, c, ldc);
}

void round_16(const Exec& exec, std::int64_t n, const float* x, core::DType dtype, std::uint16_t* bits) {
  if (n > 0) round_to_16(gpu::native(exec), dtype, 1, n, x, n, bits, n);
}

// Rows of X summed in fp32 before they meet the fp64 sum: on an H100 the bf16 products of 4096 rows then cost about as
// long as merging them (n^2 / 2 values, 20 bytes each), and 4096 / 16 roundings of the tensor cores stay below 2^-15.
constexpr std::int64_t kGramRows = 4096;
// Values of the fp32 panel: 256 MiB, so that n = 53,248 takes 43 panels of 1,260 columns.
constexpr std::int64_t kPanelValues = std::int64_t{64} << 20;

void gram_accumulate(const Exec& exec, std::int64_t n_rows, std::int64_t n, const float* x, std::int64_t ldx,
                     core::DType dtype, double* sum) {
  VORONOI_REQUIRE(n_rows >= 0 && n >= 0, "a matrix extent is negative");
  Native& native = gpu::native(exec);
  if (n_rows == 0 || n == 0) return;
  const bool rounds = dtype != core::DType::f32;
  const std::int64_t width = std::min(n, std::max<std::int64_t>(8, kPanelValues / n / 8 * 8));
  const std::int64_t ld_panel = padded(width), ld_rounded = padded(n);
  const Scratch<float> panel(native, n * ld_panel);
  const Scratch<std::uint16_t> rounded(native, rounds ? std::min(n_rows, kGramRows) * ld_rounded : 0);
  for (std::int64_t row = 0; row < n_rows; row += kGramRows) {
    const std::int64_t rows = std::min(kGramRows, n_rows - row);
    const float* block = x + row * ldx;
    if (rounds) round_to_16(native, dtype, rows, n, block, ldx, rounded.data(), ld_rounded);
    for (std::int64_t first = 0; first < n; first += width) {
      const std::int64_t columns = std::min(width, n - first);
      if (rounds)
        native.blas->gemm_16(dtype, true, false, n - first, columns, rows, rounded.data() + first, ld_rounded,
                             rounded.data() + first, ld_rounded, 0.0F, panel.data(), ld_panel);
      else
        multiply(native, MatrixProduct<float>{true, false, n - first, columns, rows, 1.0F, block + first, ldx,
                                              block + first, ldx, 0.0F, panel.data(), ld_panel});
      launch(native, merge_panel, grid_over(n - first, columns), kThreads, 0, n, first, columns, panel.data(), ld_panel,
             sum);
    }
  }
}

std::int64_t cholesky_lower(const Exec& exec, std::int64_t n, double* a, std::int64_t lda) {
  Native& native = gpu::native(exec);
  return n == 0 ? 0 : native.blas->cholesky_lower(n, a, lda);
}

std::int64_t invert_lower(const Exec& exec, std::int64_t n, double* l, std::int64_t ldl) {
  Native& native = gpu::native(exec);
  return n == 0 ? 0 : native.blas->invert_lower(n, l, ldl);
}

}  // namespace

LinalgKernels cuda_linalg_kernels() {
  return {.gemm_f32 = gemm<float>,
          .gemm_f64 = gemm<double>,
          .gemm_16 = gemm_16<true>,
          .gemm_16_back = gemm_16<false>,
          .gemm_16_outer = gemm_16_outer,
          .round_16 = round_16,
          .gram_accumulate = gram_accumulate,
          .cholesky_lower_f64 = cholesky_lower,
          .invert_lower_f64 = invert_lower,
          .diagonal_f64 = gpu::diagonal_f64,
          .packed_diagonal_f64 = gpu::packed_diagonal_f64,
          .add_f64 = gpu::add_f64,
          .widen_f64 = gpu::widen_f64,
          .gather_rows_f32 = gpu::gather_rows_f32,
          .gather_rows_16 = gpu::gather_rows_16,
          .bounded_rows = gpu::bounded_rows};
}

}  // namespace voronoi::kernels
