// Rotations: sums and differences of halves over doubling distances, as many distances a pass as a block's shared
// memory holds, then a pass with the factor. Each pass reads and writes the vectors once: bound by memory.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/types.h"
#include "kernels/cuda/families.h"
#include "kernels/cuda/native.h"
#include "kernels/cuda/packed.cuh"
#include "kernels/matrix_product.h"

namespace voronoi::kernels {
namespace gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 4096;  // values in shared memory: three such blocks a multiprocessor and more
constexpr int kRun = 32;     // neighbouring values of different vectors, or of one beyond the pass's distances
constexpr int kDepth = static_cast<int>(kGemmDepth);
constexpr std::int64_t kFactorValues = 12288;  // values that stand before the factor: 48 KiB, which any GPU has

/// Where a coordinate of a vector is, and what its first and its last pass do besides.
struct Ends {
  std::int64_t stride = 1;  ///< between neighbouring coordinates: 1, or the vectors where they are columns
  std::int64_t n = 0;
  const std::uint32_t* signs_before = nullptr;  ///< of the first pass
  const std::uint32_t* signs_behind = nullptr;  ///< of the last one
  float norm = 1;                               ///< of the last one, else 1
};

__device__ __forceinline__ float sign_at(const std::uint32_t* signs, const Ends& ends, std::int64_t place) {
  if (signs == nullptr) return 1.0F;
  const std::int64_t i = place / ends.stride % ends.n;
  return packed_value(signs, i, 1) != 0 ? -1.0F : 1.0F;
}
__device__ __forceinline__ float load_turned(const float* x, const Ends& ends, std::int64_t place) {
  const float value = x[place];
  return ends.signs_before == nullptr ? value : value * sign_at(ends.signs_before, ends, place);
}
__device__ __forceinline__ float finished(float value, const Ends& ends, std::int64_t place) {
  return value * (ends.norm * sign_at(ends.signs_behind, ends, place));
}

/// Values [n_outer, radix, inner]: each run of `radix` values, `inner` apart, by Sylvester's matrix.
struct Pass {
  std::int64_t n_outer = 0, radix = 1, inner = 1;
  bool is_narrow() const { return inner < kRun; }  ///< a tile is whole spans of radix * inner values, one after another
  std::int64_t tiles() const {
    return is_narrow() ? core::ceil_div(n_outer, kTile / (radix * inner))
                       : n_outer * core::ceil_div(inner, std::int64_t{kRun});
  }
};

template <bool kNarrow>
__global__ void __launch_bounds__(kThreads) halves_kernel(float* x, Pass pass, Ends ends) {
  __shared__ float tile[kTile];
  const std::int64_t span = pass.radix * pass.inner;
  std::int64_t first = 0;  // place of the tile's first value
  int size = 0, step = 0, width = kRun;
  if (kNarrow) {
    const std::int64_t spans = kTile / span, begin = static_cast<std::int64_t>(blockIdx.x) * spans;
    const std::int64_t there = pass.n_outer - begin < spans ? pass.n_outer - begin : spans;
    first = begin * span;
    size = static_cast<int>(there * span);
    step = static_cast<int>(pass.inner);
  } else {
    const std::int64_t runs = (pass.inner + kRun - 1) / kRun, place = blockIdx.x % runs * kRun;
    first = blockIdx.x / runs * span + place;
    if (pass.inner - place < kRun) width = static_cast<int>(pass.inner - place);
    size = static_cast<int>(pass.radix) * kRun;
    step = kRun;
  }
  const auto place_of = [&](int i) {
    return kNarrow ? first + i : first + static_cast<std::int64_t>(i / kRun) * pass.inner + i % kRun;
  };
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads)
    tile[i] = kNarrow || i % kRun < width ? load_turned(x, ends, place_of(i)) : 0.0F;
  sync_threads();
  for (int distance = step; distance < static_cast<int>(pass.radix) * step; distance *= 2) {
    for (int pair = static_cast<int>(threadIdx.x); pair < size / 2; pair += kThreads) {
      const int low = pair / distance * 2 * distance + pair % distance;
      const float a = tile[low], b = tile[low + distance];
      tile[low] = a + b;
      tile[low + distance] = a - b;
    }
    sync_threads();
  }
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads)
    if (kNarrow || i % kRun < width) x[place_of(i)] = finished(tile[i], ends, place_of(i));
}

/// Values [n_outer, order, inner]: each run of `order` values by H or its transpose. A block takes kWidth runs.
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    factor_kernel(float* x, std::int64_t inner, int order, const std::uint32_t* factor, bool transposed, Ends ends) {
  float* tile = dynamic_shared<float>();
  const std::int64_t blocks = (inner + kWidth - 1) / kWidth, place = blockIdx.x % blocks * kWidth;
  float* values = x + blockIdx.x / blocks * order * inner + place;
  const int width = inner - place < kWidth ? static_cast<int>(inner - place) : kWidth;
  const int words = (order + 31) / 32;
  const int lane = static_cast<int>(threadIdx.x) % kWidth, first = static_cast<int>(threadIdx.x) / kWidth;
  constexpr int kRows = kThreads / kWidth;
  for (int j = first; j < order; j += kRows)
    tile[j * kWidth + lane] = lane < width ? values[static_cast<std::int64_t>(j) * inner + lane] : 0.0F;
  sync_threads();
  if (lane >= width) return;
  for (int i = first; i < order; i += kRows) {
    float sum = 0;
    for (int begin = 0; begin < order; begin += kDepth) {
      const int end = begin + kDepth < order ? begin + kDepth : order;
      float part = 0;
      for (int j = begin; j < end; ++j) {
        const int row = transposed ? j : i, column = transposed ? i : j;
        const bool is_negative = (load_constant(factor + row * words + column / 32) >> (column % 32) & 1U) != 0;
        const float value = tile[j * kWidth + lane];
        part += is_negative ? -value : value;
      }
      sum = begin == 0 ? part : sum + part;
    }
    const std::int64_t at = static_cast<std::int64_t>(i) * inner + lane;
    values[at] = finished(sum, ends, values + at - x);
  }
}

/// x: `count` values, vectors whose coordinates are `stride` apart.
void turn(const Exec& exec, const Rotation& r, bool inverse, std::int64_t count, std::int64_t stride, float* x) {
  if (count == 0) return;
  Native& gpu = native(exec);
  const auto norm = static_cast<float>(1 / std::sqrt(static_cast<double>(r.order * r.block)));
  for (std::int64_t distance = 1;;) {
    Pass pass;
    pass.inner = distance * stride;
    const std::int64_t most = pass.is_narrow() ? kTile / pass.inner : kTile / kRun;
    while (pass.radix < r.block / distance && 2 * pass.radix <= most) pass.radix *= 2;
    pass.n_outer = count / (pass.radix * pass.inner);
    const bool is_first = distance == 1;
    distance *= pass.radix;
    const bool is_last = distance == r.block && r.order == 1;
    const Ends ends{stride, r.n, is_first && !inverse ? r.signs : nullptr, is_last && inverse ? r.signs : nullptr,
                    is_last ? norm : 1.0F};
    launch(gpu, pass.is_narrow() ? halves_kernel<true> : halves_kernel<false>, grid_of(pass.tiles()), dim3(kThreads), 0,
           x, pass, ends);
    if (distance == r.block) break;
  }
  if (r.order == 1) return;
  const std::int64_t inner = r.block * stride;
  const bool is_wide = r.order * kRun <= kFactorValues;
  const int width = is_wide ? kRun : kRun / 4;
  const Ends ends{stride, r.n, nullptr, inverse ? r.signs : nullptr, norm};
  launch(gpu, is_wide ? factor_kernel<kRun> : factor_kernel<kRun / 4>,
         grid_of(count / (r.order * inner) * core::ceil_div(inner, std::int64_t{width})), dim3(kThreads),
         r.order * width * std::int64_t{sizeof(float)}, x, inner, static_cast<int>(r.order), r.factor, inverse, ends);
}

void turn_rows(const Exec& exec, const Rotation& rotation, bool inverse, std::int64_t n_rows, float* x) {
  turn(exec, rotation, inverse, n_rows * rotation.n, 1, x);
}

void turn_columns(const Exec& exec, const Rotation& rotation, bool inverse, std::int64_t n_columns, float* x) {
  turn(exec, rotation, inverse, rotation.n * n_columns, n_columns, x);
}

constexpr std::int64_t kPartRows = 32;  // rows with sums of their own

__device__ __forceinline__ float share_of(float sum, float factor) { return factor != 0 ? sum / factor : 0.0F; }

/// Block row.
__global__ void __launch_bounds__(kThreads)
    row_gradient_kernel(std::int64_t n_in, const float* factors, const float* weight, const float* d_weight,
                        float* d_out) {
  __shared__ float partial[kWarpSize];
  const std::int64_t row = blockIdx.x;
  float sum = 0;
  for (std::int64_t c = threadIdx.x; c < n_in; c += kThreads)
    sum = fmaf(d_weight[row * n_in + c], weight[row * n_in + c], sum);
  const float total = block_sum(sum, partial);
  if (threadIdx.x == 0) d_out[row] += share_of(total, factors[row]);
}

/// Block (columns, part): sums [parts, n_in] over kPartRows rows.
__global__ void __launch_bounds__(kThreads)
    column_parts_kernel(std::int64_t n_out, std::int64_t n_in, const float* weight, const float* d_weight,
                        float* sums) {
  const std::int64_t column = global_thread(), first = static_cast<std::int64_t>(blockIdx.y) * kPartRows;
  const std::int64_t end = first + kPartRows < n_out ? first + kPartRows : n_out;
  if (column >= n_in) return;
  float sum = 0;
  for (std::int64_t row = first; row < end; ++row)
    sum = fmaf(d_weight[row * n_in + column], weight[row * n_in + column], sum);
  sums[static_cast<std::int64_t>(blockIdx.y) * n_in + column] = sum;
}

__global__ void __launch_bounds__(kThreads)
    add_columns_kernel(std::int64_t n_parts, std::int64_t n_in, const float* factors, const float* sums, float* d_in) {
  for (std::int64_t column = global_thread(); column < n_in; column += global_threads()) {
    float sum = 0;
    for (std::int64_t part = 0; part < n_parts; ++part) sum += sums[part * n_in + column];
    d_in[column] += share_of(sum, factors[column]);
  }
}

/// Bound by memory: both matrices are read twice.
void factor_gradient(const Exec& exec, std::int64_t n_out, std::int64_t n_in, const SideFactors& factors,
                     const float* weight, const float* d_weight, float* d_in, float* d_out) {
  Native& gpu = native(exec);
  const std::int64_t n_parts = core::ceil_div(n_out, kPartRows);
  const Scratch<float> sums(gpu, n_parts * n_in);
  launch(gpu, row_gradient_kernel, grid_of(n_out), dim3(kThreads), 0, n_in, factors.out, weight, d_weight, d_out);
  launch(gpu, column_parts_kernel, grid_of(core::ceil_div(n_in, std::int64_t{kThreads}), n_parts), dim3(kThreads), 0,
         n_out, n_in, weight, d_weight, sums.data());
  launch(gpu, add_columns_kernel, grid_for(gpu, n_in, kThreads), dim3(kThreads), 0, n_parts, n_in, factors.in,
         sums.data(), d_in);
}

}  // namespace
}  // namespace gpu

RotationKernels cuda_rotation_kernels() {
  return {.turn_rows = gpu::turn_rows, .turn_columns = gpu::turn_columns, .factor_gradient = gpu::factor_gradient};
}

}  // namespace voronoi::kernels
