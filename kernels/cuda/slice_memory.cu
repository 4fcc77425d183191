// What moves a slice's data about: all bound by memory.
#include <algorithm>
#include <bit>

#include "core/packing.h"
#include "kernels/cuda/slice_codes.cuh"
#include "kernels/cuda/slice_family.h"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 32;
constexpr unsigned kMostRows = 65535;  // of a grid

/// Tiles of 32 columns by 32 rows through shared memory. A tile reads 32 rows at 32 places each; its neighbours in the
/// grid read the same rows, so their lines come from the second-level cache.
__global__ void __launch_bounds__(kThreads)
    permute_tiles(std::int64_t in_features, std::int64_t rows, std::int64_t width, const float* __restrict__ weight,
                  const std::int32_t* __restrict__ perm, float* __restrict__ matrix) {
  __shared__ float tile[kTile][kTile + 1];
  const int x = static_cast<int>(threadIdx.x) % kTile, y0 = static_cast<int>(threadIdx.x) / kTile;
  const std::int64_t p0 = static_cast<std::int64_t>(blockIdx.x) * kTile;
  for (std::int64_t r0 = static_cast<std::int64_t>(blockIdx.y) * kTile; r0 < width;
       r0 += static_cast<std::int64_t>(gridDim.y) * kTile) {
    for (int y = y0; y < kTile; y += kThreads / kTile) {
      const bool present = p0 + x < in_features && r0 + y < rows;
      tile[x][y] = present ? weight[(r0 + y) * in_features + perm[p0 + x]] : 0.0F;
    }
    sync_threads();
    for (int y = y0; y < kTile; y += kThreads / kTile)
      if (p0 + y < in_features && r0 + x < width) matrix[(p0 + y) * width + r0 + x] = tile[y][x];
    sync_threads();
  }
}

__global__ void __launch_bounds__(kThreads) decode_all(Coded coded, float* __restrict__ matrix) {
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (r >= coded.width) return;
  for (std::int64_t p = blockIdx.y; p < coded.in_features; p += gridDim.y)
    matrix[p * coded.width + r] =
        r < coded.rows ? coded.decode(p, r) * coded.books.scale[p] + coded.books.bias[p] : 0.0F;
}

/// One part: a thread a value of a point.
__global__ void __launch_bounds__(kThreads)
    gather(std::int64_t n, std::int64_t per_column, TrainingRange range, std::int64_t width, std::int64_t row,
           const float* __restrict__ matrix, const float* __restrict__ scale, const float* __restrict__ bias,
           const float* __restrict__ column_weight, float* __restrict__ points, float* __restrict__ weights) {
  for (std::int64_t i = global_thread(); i < n * range.dim; i += global_threads()) {
    const std::int64_t point = i / range.dim, d = i - point * range.dim, at = point * range.stride;
    const std::int64_t column = at / per_column, p = range.first + column;
    const float value = matrix[p * width + row + (at - column * per_column) * range.dim + d];
    points[i] = (value - (bias != nullptr ? bias[p] : 0.0F)) * (1.0F / scale[p]);
    if (d == 0) weights[point] = column_weight[column];
  }
}

__global__ void __launch_bounds__(kThreads)
    subtract_all(std::int64_t n, const float* __restrict__ a, const float* __restrict__ b, float* out) {
  for (std::int64_t i = global_thread(); i < n; i += global_threads()) out[i] = a[i] - b[i];
}

/// source[group_size g + stored column] = position behind the outliers.
__global__ void invert(std::int64_t n, std::int64_t group_size, const std::int32_t* __restrict__ stored,
                       std::int32_t* __restrict__ source) {
  for (std::int64_t i = global_thread(); i < n; i += global_threads())
    source[i / group_size * group_size + stored[i]] = static_cast<std::int32_t>(i);
}

/// A thread a word, neighbours neighbouring vectors, whose codes stand side by side.
__global__ void __launch_bounds__(kThreads)
    pack_words(Coded coded, std::int64_t vectors, std::int64_t row_words, int main_bits, int bits,
               const std::int32_t* __restrict__ source, std::uint32_t* __restrict__ words) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x, group = blockIdx.z;
  if (i >= vectors) return;
  for (std::int64_t w = blockIdx.y; w < row_words; w += gridDim.y) {
    const std::int64_t first_bit = w * 32, end_bit = first_bit + 32;
    std::uint32_t word = 0;
    for (std::int64_t j = first_bit / bits; j < coded.group_size && j * bits < end_bit; ++j) {
      const std::int64_t at = (coded.outlier_size + source[group * coded.group_size + j]) * coded.code_stride + i;
      std::uint64_t value = static_cast<std::uint32_t>(coded.codes.main[at]);
      if (coded.kr > 0)
        value |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(coded.codes.residual[at])) << main_bits;
      const std::int64_t shift = j * bits - first_bit;
      word |= static_cast<std::uint32_t>(shift >= 0 ? value << shift : value >> -shift);
    }
    words[(group * vectors + i) * row_words + w] = word;
  }
}

__global__ void __launch_bounds__(kThreads)
    pack_outliers(std::int64_t vectors, std::int64_t outlier_size, std::int64_t code_stride,
                  const std::int32_t* __restrict__ codes, std::uint16_t* __restrict__ words) {
  for (std::int64_t i = global_thread(); i < vectors * outlier_size; i += global_threads())
    words[i] = static_cast<std::uint16_t>(codes[i % outlier_size * code_stride + i / outlier_size]);
}

unsigned grid_rows(std::int64_t n) { return static_cast<unsigned>(std::min<std::int64_t>(n, kMostRows)); }

}  // namespace

void transpose(const Exec& exec, const VqSlice& slice, const float* weight, const std::int32_t* perm, float* matrix) {
  launch(native(exec), permute_tiles,
         grid_of(core::ceil_div(slice.in_features, std::int64_t{kTile}),
                 grid_rows(core::ceil_div(slice.width, std::int64_t{kTile}))),
         dim3(kThreads), 0, slice.in_features, slice.rows, slice.width, weight, perm, matrix);
}

void decode(const Exec& exec, const VqSlice& slice, const VqBooks& books, const VqCodes& codes, float* matrix) {
  launch(native(exec), decode_all,
         grid_of(core::ceil_div(slice.width, std::int64_t{kThreads}), grid_rows(slice.in_features)), dim3(kThreads), 0,
         coded(slice, books, codes), matrix);
}

void gather_training(const Exec& exec, const VqSlice& slice, const TrainingRange& range, const float* matrix,
                     const float* scale, const float* bias, const float* column_weight, float* points, float* weights) {
  VORONOI_REQUIRE(range.dim >= 1 && range.stride >= 1, "gather_training: dim, stride >= 1");
  Native& open = native(exec);
  for (std::int64_t part = 0; part < slice.n_parts; ++part) {
    const std::int64_t row = slice.part_begin[part], per_column = (slice.part_begin[part + 1] - row) / range.dim;
    const std::int64_t n = core::ceil_div(per_column * range.count, range.stride);
    launch(open, gather, grid_for(open, n * range.dim, kThreads), dim3(kThreads), 0, n, per_column, range, slice.width,
           row, matrix, scale, bias, column_weight, points, weights);
    points += n * range.dim;
    weights += n;
  }
}

void subtract(const Exec& exec, std::int64_t n, const float* a, const float* b, float* out) {
  Native& open = native(exec);
  launch(open, subtract_all, grid_for(open, n, kThreads), dim3(kThreads), 0, n, a, b, out);
}

void pack(const Exec& exec, const VqSlice& slice, const VqCodes& codes, const std::int32_t* stored,
          std::uint32_t* words, std::uint16_t* outlier_words) {
  Native& open = native(exec);
  const int main_bits = std::countr_zero(static_cast<std::uint64_t>(slice.k));
  const int bits = main_bits + (slice.kr > 0 ? std::countr_zero(static_cast<std::uint64_t>(slice.kr)) : 0);
  const std::int64_t vectors = core::ceil_div(slice.rows, slice.v), columns = slice.groups * slice.group_size,
                     row_words = core::packed_words(slice.group_size, bits);
  const Scratch<std::int32_t> source(open, columns);
  launch(open, invert, grid_for(open, columns, kThreads), dim3(kThreads), 0, columns, slice.group_size, stored,
         source.data());
  launch(open, pack_words, grid_of(core::ceil_div(vectors, std::int64_t{kThreads}), grid_rows(row_words), slice.groups),
         dim3(kThreads), 0, coded(slice, VqBooks{}, codes), vectors, row_words, main_bits, bits, source.data(), words);
  if (slice.outlier_size == 0) return;
  const std::int64_t outlier_vectors = core::ceil_div(slice.rows, slice.v0);
  launch(open, pack_outliers, grid_for(open, outlier_vectors * slice.outlier_size, kThreads), dim3(kThreads), 0,
         outlier_vectors, slice.outlier_size, slice.code_stride, codes.main, outlier_words);
}

}  // namespace voronoi::kernels::gpu
