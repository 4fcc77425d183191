// Linears with a code a weight in device code: decoding, bound by the write of the matrix, and y = x W^T for a few
// tokens.
//
// Floor of the product: the codes, read once, beside what a group has. A warp takes a few rows, so that a token's value
// is loaded once for them, and its lanes take neighbouring columns: they share the words of the codes.
//
// Form says what codes mean: Form::Packed, the packed linear; Form::kScales, scales a group; Form::Group, what a group
// of a row has, with load_group(), step() and weight() below.
#pragma once

#include <algorithm>

#include "core/error.h"
#include "core/packing.h"
#include "kernels/cuda/native.h"
#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/product_parts.cuh"
#include "kernels/scalar_codes.h"

namespace voronoi::kernels::gpu {

/// Words of a row, and how its columns are divided over warps.
struct RowLayout {
  std::int64_t n_groups = 0, code_words = 0, zero_words = 0;
  std::int64_t splits = 0, columns = 0;  ///< how many, and columns each but the last
};

namespace scalar {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kRows = 4;  // of a warp
constexpr std::int64_t kColumnsABlock = 1024;
constexpr std::int64_t kTokensAPass = 8;  // their sums must fit the registers of a thread
// Warps wanted at work, and the least columns of one: a matter of the shape alone, so that sums do not depend on the
// GPU.
constexpr std::int64_t kWarpsWanted = 4096, kLeastColumns = 512;

inline RowLayout layout_of(const PackedScalars& p) {
  RowLayout row;
  row.n_groups = core::ceil_div(p.in_features, p.group_size);
  row.code_words = core::packed_words(p.in_features, p.bits);
  row.zero_words = core::packed_words(row.n_groups, p.bits);
  const std::int64_t wanted = core::ceil_div(kWarpsWanted, core::ceil_div(p.out_features, std::int64_t{kRows}));
  row.columns = std::max(kLeastColumns, core::ceil_div(core::ceil_div(p.in_features, wanted), kWarpSize) * kWarpSize);
  row.splits = core::ceil_div(p.in_features, row.columns);
  return row;
}

/// Scale i of a row's group, stored or tuned.
template <bool kBf16>
__device__ __forceinline__ float load_scale(const PackedScalars& p, std::int64_t at, const float* tuned_scale) {
  return tuned_scale != nullptr ? tuned_scale[at] : widen16<kBf16>(p.scale[at]);
}

/// The weight of a row's stored column but for its column scale, with the roundings of the CPU twin.
template <class Form>
__device__ __forceinline__ float load_weight(const typename Form::Packed& p, const RowLayout& layout,
                                             const typename Form::Group& group, std::int64_t row, std::int64_t column) {
  return Form::weight(p, group, packed_value(p.codes + row * layout.code_words, column, p.bits));
}

template <bool kBf16>
__device__ __forceinline__ float load_column_scale(const PackedScalars& p, std::int64_t column) {
  return p.column_scale != nullptr ? widen16<kBf16>(p.column_scale[column]) : 1.0F;
}

/// Block (row, chunk): its stored columns. Neighbouring threads write neighbouring columns unless a permutation
/// scatters them.
template <class Form, bool kBf16, class Out>
__global__ void decode_kernel(typename Form::Packed p, RowLayout layout, const float* tuned_scale, Out* weight) {
  const std::int64_t row = blockIdx.x, first = static_cast<std::int64_t>(blockIdx.y) * kColumnsABlock;
  const std::int64_t end = first + kColumnsABlock < p.in_features ? first + kColumnsABlock : p.in_features;
  for (std::int64_t stored = first + threadIdx.x; stored < end; stored += blockDim.x) {
    const std::int64_t column = p.perm != nullptr ? p.perm[stored] : stored;
    const auto group = Form::template load_group<kBf16>(p, layout, row, stored / p.group_size, tuned_scale);
    const float value = load_weight<Form>(p, layout, group, row, stored);
    store<kBf16>(value * load_column_scale<kBf16>(p, column), weight + row * p.in_features + column);
  }
}

/// A warp a row and group: the sums over its columns of d_weight times column scale times step.
template <class Form, bool kBf16>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(typename Form::Packed p, RowLayout layout, const float* d_weight, float* d_scale) {
  const std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_id();
  if (place >= p.out_features * layout.n_groups) return;  // a whole warp
  const std::int64_t row = place / layout.n_groups, g = place % layout.n_groups;
  const auto group = Form::load_unit_group(p, layout, row, g);
  const std::int64_t first = g * p.group_size, last = first + p.group_size;
  const std::int64_t end = last < p.in_features ? last : p.in_features;
  float sums[Form::kScales] = {};
  for (std::int64_t stored = first + lane_id(); stored < end; stored += kWarpSize) {
    const std::int64_t column = p.perm != nullptr ? p.perm[stored] : stored;
    const float d = d_weight[row * p.in_features + column] * load_column_scale<kBf16>(p, column);
    const float step = load_weight<Form>(p, layout, group, row, stored);
    if constexpr (Form::kScales == 1) {
      sums[0] = fmaf(d, step, sums[0]);
    } else {
      sums[0] = fmaf(d, step < 0 ? 0.0F : step, sums[0]);
      sums[1] = fmaf(d, step < 0 ? step : 0.0F, sums[1]);
    }
  }
#pragma unroll
  for (int i = 0; i < Form::kScales; ++i) {
    const float sum = warp_sum(sums[i]);
    if (lane_id() == 0) d_scale[Form::kScales * place + i] += sum;
  }
}

/// ordered [n_tokens, in] in stored order, times the column scales.
template <bool kBf16>
__global__ void order_tokens_kernel(PackedScalars p, const float* x, float* ordered) {
  const std::int64_t token = blockIdx.y, stored = global_thread();
  if (stored >= p.in_features) return;
  const std::int64_t column = p.perm != nullptr ? p.perm[stored] : stored;
  ordered[token * p.in_features + stored] = x[token * p.in_features + column] * load_column_scale<kBf16>(p, column);
}

/// Block (row tile, split): a warp adds over the split's columns of kRows rows. tokens [n_tokens, in] in stored order,
/// times the column scales; partials [splits, n_tokens, out].
template <class Form, int kTokens, bool kBf16>
__global__ void __launch_bounds__(kThreads)
    product_kernel(typename Form::Packed p, RowLayout layout, int n_tokens, const float* tokens, float* partials) {
  const std::int64_t first_row = (static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_id()) * kRows;
  if (first_row >= p.out_features) return;  // a whole warp
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * layout.columns;
  const std::int64_t end = first + layout.columns < p.in_features ? first + layout.columns : p.in_features;
  std::int64_t rows[kRows];  // past the end the last one again
#pragma unroll
  for (int i = 0; i < kRows; ++i) rows[i] = first_row + i < p.out_features ? first_row + i : p.out_features - 1;
  float sums[kRows][kTokens] = {};
  for (std::int64_t group = first / p.group_size; group * p.group_size < end; ++group) {
    typename Form::Group groups[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) groups[i] = Form::template load_group<kBf16>(p, layout, rows[i], group, nullptr);
    const std::int64_t group_begin = group * p.group_size, group_end = group_begin + p.group_size;
    const std::int64_t column_end = group_end < end ? group_end : end;
    for (std::int64_t j = (group_begin > first ? group_begin : first) + lane_id(); j < column_end; j += kWarpSize) {
      float values[kTokens];
#pragma unroll
      for (int t = 0; t < kTokens; ++t) values[t] = t < n_tokens ? tokens[t * p.in_features + j] : 0.0F;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float weight = load_weight<Form>(p, layout, groups[i], rows[i], j);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) sums[i][t] = fmaf(weight, values[t], sums[i][t]);
      }
    }
  }
  float* target = partials + static_cast<std::int64_t>(blockIdx.y) * n_tokens * p.out_features;
  store_row_sums(sums, first_row, n_tokens, p.out_features, target);
}

template <class Form, class Out>
void decode(const Exec& exec, const typename Form::Packed& p, const float* tuned_scale, Out* weight) {
  const auto kernel = p.dtype == core::DType::bf16 ? decode_kernel<Form, true, Out> : decode_kernel<Form, false, Out>;
  launch(native(exec), kernel, grid_of(p.out_features, core::ceil_div(p.in_features, kColumnsABlock)), dim3(kThreads),
         0, p, layout_of(p), tuned_scale, weight);
}

template <class Form>
void decode_f32(const Exec& exec, const typename Form::Packed& p, float* weight) {
  decode<Form>(exec, p, nullptr, weight);
}

template <class Form>
void decode_16(const Exec& exec, const typename Form::Packed& p, std::uint16_t* weight) {
  decode<Form>(exec, p, nullptr, weight);
}

template <class Form>
void gradient(const Exec& exec, const typename Form::Packed& p, const float* d_weight, float* d_scale) {
  const RowLayout layout = layout_of(p);
  const auto kernel = p.dtype == core::DType::bf16 ? gradient_kernel<Form, true> : gradient_kernel<Form, false>;
  launch(native(exec), kernel, grid_of(core::ceil_div(p.out_features * layout.n_groups, std::int64_t{kWarps})),
         dim3(kThreads), 0, p, layout, d_weight, d_scale);
}

/// Tokens of one pass.
template <class Form>
void multiply(Native& gpu, const typename Form::Packed& p, std::int64_t n, const float* x, bool accumulate,
              float* out) {
  const RowLayout layout = layout_of(p);
  const bool bf16 = p.dtype == core::DType::bf16, in_order = p.perm == nullptr && p.column_scale == nullptr;
  const Scratch<float> ordered(gpu, in_order ? 0 : n * p.in_features),
      partials(gpu, layout.splits * n * p.out_features);
  const float* tokens = x;
  if (!in_order) {
    launch(gpu, bf16 ? order_tokens_kernel<true> : order_tokens_kernel<false>,
           grid_of(core::ceil_div(p.in_features, std::int64_t{kThreads}), n), dim3(kThreads), 0,
           static_cast<const PackedScalars&>(p), x, ordered.data());
    tokens = ordered.data();
  }
  const auto kernel =
      n == 1 ? (bf16 ? product_kernel<Form, 1, true> : product_kernel<Form, 1, false>)
             : (bf16 ? product_kernel<Form, kTokensAPass, true> : product_kernel<Form, kTokensAPass, false>);
  launch(gpu, kernel, grid_of(core::ceil_div(p.out_features, std::int64_t{kWarps * kRows}), layout.splits),
         dim3(kThreads), 0, p, layout, static_cast<int>(n), tokens, partials.data());
  add_product_parts(gpu, n * p.out_features, layout.splits, partials.data(), accumulate, out);
}

template <class Form>
void fused_matmul(const Exec& exec, const typename Form::Packed& packed, std::int64_t n_tokens, const float* x,
                  bool accumulate, float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxScalarTokens, "a fused product has 1 to 16 tokens");
  Native& gpu = native(exec);
  for (std::int64_t first = 0; first < n_tokens; first += kTokensAPass)
    multiply<Form>(gpu, packed, std::min(kTokensAPass, n_tokens - first), x + first * packed.in_features, accumulate,
                   out + first * packed.out_features);
}

template <class Form>
ScalarKernels<typename Form::Packed> table() {
  return {.decode_f32 = decode_f32<Form>,
          .decode_16 = decode_16<Form>,
          .fused_matmul = fused_matmul<Form>,
          .decode_tuned = decode<Form, float>,
          .gradient = gradient<Form>};
}

}  // namespace scalar
}  // namespace voronoi::kernels::gpu
