// Sums over the rows of a slice, a part at a time.
#include <algorithm>

#include "kernels/cuda/part_sums.cuh"
#include "kernels/cuda/slice_codes.cuh"
#include "kernels/cuda/slice_family.h"

namespace voronoi::kernels::gpu {
namespace {

constexpr std::int64_t kPieceColumns = 16;

/// Bound by memory: 8 bytes a row and column.
struct Dot {
  std::int64_t in_features, width;
  const std::int64_t* part_begin;
  const float* a;
  const float* b;

  __device__ std::int64_t pieces(std::int64_t) const { return (in_features + kPieceColumns - 1) / kPieceColumns; }
  __device__ double partial(std::int64_t part, std::int64_t piece) const {
    const std::int64_t begin = part_begin[part] + threadIdx.x, end = part_begin[part + 1];
    double sum = 0;
    for (std::int64_t p = piece * kPieceColumns; p < in_features && p < (piece + 1) * kPieceColumns; ++p)
      for (std::int64_t r = begin; r < end; r += kSumThreads)
        sum += static_cast<double>(a[p * width + r]) * static_cast<double>(b[p * width + r]);
    return sum;
  }
};

/// Uses of one kind of codebook (outlier, main or residual): item i is vector i % vectors of position first + i /
/// vectors. Sorted by codebook entry and part; the values are its rows.
struct Uses {
  std::int64_t n_parts, first, vectors, code_stride, v, k, group_size, rows, width, place0, size;
  const std::int64_t* part_begin;
  const std::int32_t* codes;
  const float* scale;
  const float* g;
  const float* diagonal;
  int n_values;

  __device__ std::uint32_t key(std::int64_t i) const {
    const std::int64_t column = i / vectors, vector = i - column * vectors, row = vector * v;
    std::int64_t part = 0;
    for (std::int64_t high = n_parts; high - part > 1;) {
      const std::int64_t middle = (part + high) / 2;
      (part_begin[middle] <= row ? part : high) = middle;
    }
    const std::int64_t entry = column / group_size * k + codes[(first + column) * code_stride + vector];
    return static_cast<std::uint32_t>(entry * n_parts + part);
  }
  __device__ double value(std::int32_t i, int d) const {
    const auto column = static_cast<unsigned>(i) / static_cast<unsigned>(vectors);
    const std::int64_t p = first + column, row = (i - static_cast<std::int64_t>(column) * vectors) * v + d;
    if (row >= rows) return 0;
    const double factor = static_cast<double>(scale[p]);
    return g != nullptr ? factor * static_cast<double>(g[p * width + row])
                        : factor * factor * static_cast<double>(diagonal[p]);
  }
  __device__ std::int64_t place(std::int64_t part, std::int64_t entry, int d) const {
    return part * size + place0 + entry * v + d;
  }
};

/// A warp a column and part: sum of g u and of g over its rows. Bound by memory: g, and the codes.
__global__ void __launch_bounds__(kSumThreads)
    sum_columns(Coded coded, std::int64_t n_parts, const std::int64_t* __restrict__ part_begin,
                const float* __restrict__ g, const float* __restrict__ diagonal, double* __restrict__ sums) {
  const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * (kSumThreads / kWarpSize) + warp_id();
  if (item >= n_parts * coded.in_features) return;
  const std::int64_t part = item / coded.in_features, p = item - part * coded.in_features;
  const std::int64_t begin = part_begin[part], end = part_begin[part + 1];
  double along_scale = 0, along_bias = 0;
  for (std::int64_t r = begin + lane_id(); r < end; r += kWarpSize) {
    const double u = static_cast<double>(coded.decode(p, r));
    const double gradient = g != nullptr ? static_cast<double>(g[p * coded.width + r]) : u;
    along_scale += gradient * u;
    along_bias += gradient;
  }
  along_scale = warp_sum(along_scale);
  along_bias = warp_sum(along_bias);
  if (lane_id() != 0) return;
  if (g == nullptr) {
    const double h = static_cast<double>(diagonal[p]);
    along_scale *= h;
    along_bias = h * static_cast<double>(end - begin);
  }
  sums[part * 2 * coded.in_features + p] = along_scale;
  sums[part * 2 * coded.in_features + coded.in_features + p] = along_bias;
}

}  // namespace

void dots(const Exec& exec, const VqSlice& slice, const float* a, const float* b, bool combined, double* sums) {
  Native& open = native(exec);
  const Parts parts(open, slice);
  sum_parts(open, slice.n_parts, 1, combined, sums, [&](double* each) {
    sum_of_parts(open, Dot{slice.in_features, slice.width, parts.begin(), a, b}, slice.n_parts,
                 core::ceil_div(slice.in_features, kPieceColumns), 1, each);
  });
}

void collect_books(const Exec& exec, const VqSlice& slice, const VqCodes& codes, const float* scale, const float* g,
                   const float* diagonal, bool combined, double* sums) {
  Native& open = native(exec);
  const Parts parts(open, slice);
  const std::int64_t main_size = slice.groups * slice.k * slice.v,
                     residual_size = codes.residual != nullptr ? slice.groups * slice.kr * slice.v : 0,
                     size = main_size + residual_size + slice.k0 * slice.v0;
  sum_parts(open, slice.n_parts, size, combined, sums, [&](double* each) {
    const auto collect = [&](std::int64_t first, std::int64_t columns, std::int64_t v, std::int64_t k,
                             std::int64_t groups, const std::int32_t* used, std::int64_t place0) {
      if (k == 0) return;
      const std::int64_t vectors = core::ceil_div(slice.rows, v);
      const Uses uses{slice.n_parts,
                      first,
                      vectors,
                      slice.code_stride,
                      v,
                      k,
                      std::max<std::int64_t>(columns / groups, 1),
                      slice.rows,
                      slice.width,
                      place0,
                      size,
                      parts.begin(),
                      used,
                      scale,
                      g,
                      diagonal,
                      static_cast<int>(v)};
      sum_by_key(open, uses, columns * vectors, groups * k, each);
    };
    const std::int64_t rest = slice.in_features - slice.outlier_size;
    collect(slice.outlier_size, rest, slice.v, slice.k, slice.groups, codes.main, 0);
    if (codes.residual != nullptr)
      collect(slice.outlier_size, rest, slice.v, slice.kr, slice.groups, codes.residual, main_size);
    collect(0, slice.outlier_size, slice.v0, slice.k0, 1, codes.main, main_size + residual_size);
  });
}

void collect_columns(const Exec& exec, const VqSlice& slice, const VqBooks& books, const VqCodes& codes, const float* g,
                     const float* diagonal, bool combined, double* sums) {
  Native& open = native(exec);
  const Parts parts(open, slice);
  sum_parts(open, slice.n_parts, 2 * slice.in_features, combined, sums, [&](double* each) {
    launch(open, sum_columns,
           grid_of(core::ceil_div(slice.n_parts * slice.in_features, std::int64_t{kSumThreads / kWarpSize})),
           dim3(kSumThreads), 0, coded(slice, books, codes), slice.n_parts, parts.begin(), g, diagonal, each);
  });
}

}  // namespace voronoi::kernels::gpu
