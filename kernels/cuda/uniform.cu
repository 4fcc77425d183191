// Linears packed in uniform codes: decoding, bound by the write of the matrix, and y = x W^T for a few tokens.
//
// Floor of the product: the codes, read once, beside a scale and a zero a group. A warp takes a few rows, so that a
// token's value is loaded once for them, and its lanes take neighbouring columns: they share the words of the codes.
#include <algorithm>

#include "core/error.h"
#include "core/packing.h"
#include "kernels/cuda/families.h"
#include "kernels/cuda/native.h"
#include "kernels/cuda/packed.cuh"

namespace voronoi::kernels {
namespace gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kRows = 4;  // of a warp
constexpr std::int64_t kColumnsABlock = 1024;
constexpr std::int64_t kTokensAPass = 8;  // their sums must fit the registers of a thread
// Warps wanted at work, and the least columns of one: a matter of the shape alone, so that sums do not depend on the
// GPU.
constexpr std::int64_t kWarpsWanted = 4096, kLeastColumns = 512;

/// Words of a row, and how its columns are divided over warps.
struct RowLayout {
  std::int64_t n_groups = 0, code_words = 0, zero_words = 0;
  std::int64_t splits = 0, columns = 0;  ///< how many, and columns each but the last
};

RowLayout layout_of(const PackedUniform& p) {
  RowLayout row;
  row.n_groups = core::ceil_div(p.in_features, p.group_size);
  row.code_words = core::packed_words(p.in_features, p.bits);
  row.zero_words = core::packed_words(row.n_groups, p.bits);
  const std::int64_t wanted = core::ceil_div(kWarpsWanted, core::ceil_div(p.out_features, std::int64_t{kRows}));
  row.columns = std::max(kLeastColumns, core::ceil_div(core::ceil_div(p.in_features, wanted), kWarpSize) * kWarpSize);
  row.splits = core::ceil_div(p.in_features, row.columns);
  return row;
}

/// Scale, stored or tuned, and zero of a row's group.
struct Grid {
  float scale;
  std::int32_t zero;
};

template <bool kBf16>
__device__ __forceinline__ Grid load_grid(const PackedUniform& p, const RowLayout& layout, std::int64_t row,
                                          std::int64_t group, const float* tuned_scale = nullptr) {
  const std::int64_t at = row * layout.n_groups + group;
  return {tuned_scale != nullptr ? tuned_scale[at] : widen16<kBf16>(p.scale[at]),
          static_cast<std::int32_t>(packed_value(p.zeros + row * layout.zero_words, group, p.bits))};
}

/// The weight of a row's stored column, with the roundings of the CPU twin.
__device__ __forceinline__ float load_weight(const PackedUniform& p, const RowLayout& layout, const Grid& grid,
                                             std::int64_t row, std::int64_t column) {
  const auto code = static_cast<std::int32_t>(packed_value(p.codes + row * layout.code_words, column, p.bits));
  return grid.scale * static_cast<float>(code - grid.zero);
}

/// Block (row, chunk): its stored columns. Neighbouring threads write neighbouring columns unless a permutation
/// scatters them.
template <bool kBf16, class Out>
__global__ void decode_kernel(PackedUniform p, RowLayout layout, const float* tuned_scale, Out* weight) {
  const std::int64_t row = blockIdx.x, first = static_cast<std::int64_t>(blockIdx.y) * kColumnsABlock;
  const std::int64_t end = first + kColumnsABlock < p.in_features ? first + kColumnsABlock : p.in_features;
  for (std::int64_t stored = first + threadIdx.x; stored < end; stored += blockDim.x) {
    const std::int64_t column = p.perm != nullptr ? p.perm[stored] : stored;
    const Grid grid = load_grid<kBf16>(p, layout, row, stored / p.group_size, tuned_scale);
    store<kBf16>(load_weight(p, layout, grid, row, stored), weight + row * p.in_features + column);
  }
}

/// A warp a row and group: the sum over its columns of d_weight times (code - zero).
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(PackedUniform p, RowLayout layout, const float* d_weight, float* d_scale) {
  const std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_id();
  if (place >= p.out_features * layout.n_groups) return;  // a whole warp
  const std::int64_t row = place / layout.n_groups, group = place % layout.n_groups;
  const Grid grid{1.0F, static_cast<std::int32_t>(packed_value(p.zeros + row * layout.zero_words, group, p.bits))};
  const std::int64_t first = group * p.group_size, last = first + p.group_size;
  const std::int64_t end = last < p.in_features ? last : p.in_features;
  float sum = 0;
  for (std::int64_t stored = first + lane_id(); stored < end; stored += kWarpSize) {
    const std::int64_t column = p.perm != nullptr ? p.perm[stored] : stored;
    sum = fmaf(d_weight[row * p.in_features + column], load_weight(p, layout, grid, row, stored), sum);
  }
  sum = warp_sum(sum);
  if (lane_id() == 0) d_scale[place] += sum;
}

/// ordered [n_tokens, in] in stored order.
__global__ void order_tokens_kernel(PackedUniform p, const float* x, float* ordered) {
  const std::int64_t token = blockIdx.y, column = global_thread();
  if (column < p.in_features) ordered[token * p.in_features + column] = x[token * p.in_features + p.perm[column]];
}

/// Block (row tile, split): a warp adds over the split's columns of kRows rows. tokens [n_tokens, in] in stored order;
/// partials [splits, n_tokens, out].
template <int kTokens, bool kBf16>
__global__ void __launch_bounds__(kThreads)
    product_kernel(PackedUniform p, RowLayout layout, int n_tokens, const float* tokens, float* partials) {
  const std::int64_t first_row = (static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_id()) * kRows;
  if (first_row >= p.out_features) return;  // a whole warp
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * layout.columns;
  const std::int64_t end = first + layout.columns < p.in_features ? first + layout.columns : p.in_features;
  std::int64_t rows[kRows];  // past the end the last one again
#pragma unroll
  for (int i = 0; i < kRows; ++i) rows[i] = first_row + i < p.out_features ? first_row + i : p.out_features - 1;
  float sums[kRows][kTokens] = {};
  for (std::int64_t group = first / p.group_size; group * p.group_size < end; ++group) {
    Grid grids[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) grids[i] = load_grid<kBf16>(p, layout, rows[i], group);
    const std::int64_t group_begin = group * p.group_size, group_end = group_begin + p.group_size;
    const std::int64_t column_end = group_end < end ? group_end : end;
    for (std::int64_t j = (group_begin > first ? group_begin : first) + lane_id(); j < column_end; j += kWarpSize) {
      float values[kTokens];
#pragma unroll
      for (int t = 0; t < kTokens; ++t) values[t] = t < n_tokens ? tokens[t * p.in_features + j] : 0.0F;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float weight = load_weight(p, layout, grids[i], rows[i], j);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) sums[i][t] = fmaf(weight, values[t], sums[i][t]);
      }
    }
  }
  float* target = partials + static_cast<std::int64_t>(blockIdx.y) * n_tokens * p.out_features;
#pragma unroll
  for (int i = 0; i < kRows; ++i)
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float total = warp_sum(sums[i][t]);
      if (lane_id() == (i * kTokens + t) % kWarpSize && t < n_tokens && first_row + i < p.out_features)
        target[t * p.out_features + first_row + i] = total;
    }
}

__global__ void add_parts_kernel(std::int64_t n, std::int64_t n_parts, const float* partials, bool accumulate,
                                 float* out) {
  for (std::int64_t i = global_thread(); i < n; i += global_threads()) {
    float sum = 0;
    for (std::int64_t part = 0; part < n_parts; ++part) sum += partials[part * n + i];
    out[i] = accumulate ? out[i] + sum : sum;
  }
}

template <class Out>
void decode(const Exec& exec, const PackedUniform& p, Out* weight) {
  const auto kernel = p.dtype == core::DType::bf16 ? decode_kernel<true, Out> : decode_kernel<false, Out>;
  launch(native(exec), kernel, grid_of(p.out_features, core::ceil_div(p.in_features, kColumnsABlock)), dim3(kThreads),
         0, p, layout_of(p), nullptr, weight);
}

void decode_tuned(const Exec& exec, const PackedUniform& p, const float* scale, float* weight) {
  launch(native(exec), decode_kernel<false, float>,
         grid_of(p.out_features, core::ceil_div(p.in_features, kColumnsABlock)), dim3(kThreads), 0, p, layout_of(p),
         scale, weight);
}

void gradient(const Exec& exec, const PackedUniform& p, const float* d_weight, float* d_scale) {
  const RowLayout layout = layout_of(p);
  launch(native(exec), gradient_kernel, grid_of(core::ceil_div(p.out_features * layout.n_groups, std::int64_t{kWarps})),
         dim3(kThreads), 0, p, layout, d_weight, d_scale);
}

/// Tokens of one pass.
void multiply(Native& gpu, const PackedUniform& p, std::int64_t n, const float* x, bool accumulate, float* out) {
  const RowLayout layout = layout_of(p);
  const Scratch<float> ordered(gpu, p.perm != nullptr ? n * p.in_features : 0),
      partials(gpu, layout.splits * n * p.out_features);
  const float* tokens = x;
  if (p.perm != nullptr) {
    launch(gpu, order_tokens_kernel, grid_of(core::ceil_div(p.in_features, std::int64_t{kThreads}), n), dim3(kThreads),
           0, p, x, ordered.data());
    tokens = ordered.data();
  }
  const bool bf16 = p.dtype == core::DType::bf16;
  const auto kernel = n == 1 ? (bf16 ? product_kernel<1, true> : product_kernel<1, false>)
                             : (bf16 ? product_kernel<kTokensAPass, true> : product_kernel<kTokensAPass, false>);
  launch(gpu, kernel, grid_of(core::ceil_div(p.out_features, std::int64_t{kWarps * kRows}), layout.splits),
         dim3(kThreads), 0, p, layout, static_cast<int>(n), tokens, partials.data());
  launch(gpu, add_parts_kernel, grid_for(gpu, n * p.out_features, kThreads), dim3(kThreads), 0, n * p.out_features,
         layout.splits, partials.data(), accumulate, out);
}

void fused_matmul(const Exec& exec, const PackedUniform& packed, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxUniformTokens, "a fused product has 1 to 16 tokens");
  Native& gpu = native(exec);
  for (std::int64_t first = 0; first < n_tokens; first += kTokensAPass)
    multiply(gpu, packed, std::min(kTokensAPass, n_tokens - first), x + first * packed.in_features, accumulate,
             out + first * packed.out_features);
}

}  // namespace
}  // namespace gpu

UniformKernels cuda_uniform_kernels() {
  return {.decode_f32 = gpu::decode<float>,
          .decode_16 = gpu::decode<std::uint16_t>,
          .fused_matmul = gpu::fused_matmul,
          .decode_tuned = gpu::decode_tuned,
          .gradient = gpu::gradient};
}

}  // namespace voronoi::kernels
