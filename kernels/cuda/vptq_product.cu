// y = x W^T for a few tokens, W packed in VPTQ's layout. With u the decoded centroids, W = u * scale + bias a column,
// so that
//   y_row = sum_j u[row, j] (scale_j x_j)  +  sum_j bias_j x_j:
// tokens are scaled (and permuted into stored order) first, one sum of x * bias serves all rows.
//
// Floor: the packed indices, read once (2 bits a weight: 59 MB of 8192 x 28672, 17 us at 3.35 TB/s). Bound instead by
// the gathers: one centroid of v values a code. A codebook of up to about 200 KB is staged in shared memory (128 bytes
// a clock and SM, less bank conflicts of random rows); a larger one is gathered from L1 and L2 (a 32-byte sector a
// centroid).
#include <algorithm>

#include "core/error.h"
#include "core/packing.h"
#include "kernels/cuda/native.h"
#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/vptq_product.h"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kMaxLength = 16;                 // of a vector
constexpr std::int64_t kColumnsAChunk = 2048;  // of a bias sum's part
// Warps wanted at work, and the least columns of one: a matter of the shape alone, so that sums do not depend on the
// GPU.
constexpr std::int64_t kWarpsWanted = 4096, kLeastColumns = 512;

/// scaled [n_tokens, in] in stored order; bias_parts [n_tokens, chunks].
template <bool kBf16>
__global__ void scale_tokens_kernel(PackedVptq p, const float* x, float* scaled, float* bias_parts) {
  __shared__ float partial[kWarpSize];
  const std::int64_t token = blockIdx.y, n = p.in_features;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kColumnsAChunk;
  const std::int64_t end = first + kColumnsAChunk < n ? first + kColumnsAChunk : n;
  float sum = 0;
  for (std::int64_t j = first + threadIdx.x; j < end; j += blockDim.x) {
    const std::int64_t column = p.perm != nullptr ? p.perm[j] : j;
    const float value = x[token * n + column];
    scaled[token * n + j] = value * widen16<kBf16>(p.scale[column]);
    sum = fmaf(value, widen16<kBf16>(p.bias[column]), sum);
  }
  sum = block_sum(sum, partial);
  if (threadIdx.x == 0) bias_parts[token * gridDim.x + blockIdx.x] = sum;
}

struct Split {
  std::int64_t vector_rows = 0, words = 0;  // a row of a group
  std::int64_t splits = 0, columns = 0;     // of a group: how many, and columns each but the last
  std::int64_t rows_a_block = 0;
};

/// Copies a codebook of n centroids into shared memory, rows `staged_stride` apart.
template <int kV>
__device__ __forceinline__ void stage(const std::uint16_t* from, std::int64_t n, std::uint16_t* to) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(from);
  auto* target = reinterpret_cast<std::uint32_t*>(to);
  for (std::int64_t i = threadIdx.x; i < n * (kV / 2); i += blockDim.x)
    target[i / (kV / 2) * (staged_stride<kV>() / 2) + i % (kV / 2)] = words[i];
}

/// Block (row tile, split, group); a warp takes one vector row at a time and adds over the split's columns.
/// partials [groups * splits, n_tokens, out].
template <int kV, int kTokens, bool kBf16, bool kStaged>
__global__ void __launch_bounds__(kThreads)
    product_kernel(PackedVptq p, Split s, int n_tokens, const float* scaled, float* partials) {
  const std::int64_t group = blockIdx.z, split = blockIdx.y;
  const std::int64_t n_main = std::int64_t{1} << p.main_bits;
  const std::int64_t n_residual = p.residual_bits > 0 ? std::int64_t{1} << p.residual_bits : 0;
  const std::uint16_t* main = p.codebook + group * n_main * kV;
  const std::uint16_t* residual = n_residual > 0 ? p.residual_codebook + group * n_residual * kV : nullptr;
  constexpr int kStride = kStaged ? staged_stride<kV>() : kV;
  if constexpr (kStaged) {
    auto* books = dynamic_shared<std::uint16_t>();
    stage<kV>(main, n_main, books);
    main = books;
    if (n_residual > 0) {
      stage<kV>(residual, n_residual, books + n_main * kStride);
      residual = books + n_main * kStride;
    }
    sync_threads();
  }
  const int lane = lane_id(), bits = p.main_bits + p.residual_bits;
  const std::uint32_t mask = (1U << p.main_bits) - 1U;
  const std::int64_t first = split * s.columns;
  const std::int64_t end = first + s.columns < p.group_size ? first + s.columns : p.group_size;
  const float* tokens = scaled + p.outlier_size + group * p.group_size;
  const std::int64_t row_end = (blockIdx.x + std::int64_t{1}) * s.rows_a_block;
  for (std::int64_t r = blockIdx.x * s.rows_a_block + warp_id(); r < row_end && r < s.vector_rows; r += kWarps) {
    const std::uint32_t* words = p.indices + (group * s.vector_rows + r) * s.words;
    float sums[kTokens][kV] = {};
#pragma unroll(kTokens == 1 && kV > 4 ? 4 : 2)
    for (std::int64_t j = first + lane; j < end; j += kWarpSize) {
      const std::uint32_t code = packed_value(words, j, bits);
      float u[kV];
      load_centroid<kV, kBf16, kStaged>(main + static_cast<std::int64_t>(code & mask) * kStride, u);
      if (residual != nullptr) {
        float correction[kV];
        load_centroid<kV, kBf16, kStaged>(residual + static_cast<std::int64_t>(code >> p.main_bits) * kStride,
                                          correction);
#pragma unroll
        for (int i = 0; i < kV; ++i) u[i] += correction[i];
      }
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float value = t < n_tokens ? tokens[t * p.in_features + j] : 0.0F;
#pragma unroll
        for (int i = 0; i < kV; ++i) sums[t][i] = fmaf(u[i], value, sums[t][i]);
      }
    }
    float* target = partials + (group * s.splits + split) * n_tokens * p.out_features + r * kV;
#pragma unroll
    for (int t = 0; t < kTokens; ++t)
#pragma unroll
      for (int i = 0; i < kV; ++i) {
        const float total = warp_sum(sums[t][i]);
        if (lane == (t * kV + i) % kWarpSize && t < n_tokens && r * kV + i < p.out_features)
          target[t * p.out_features + i] = total;
      }
  }
}

/// A warp takes v0 rows of the outlier columns. partials [n_tokens, out].
template <bool kBf16>
__global__ void outlier_kernel(PackedVptq p, std::int64_t vector_rows, const float* scaled, float* partials) {
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / kWarpSize) + warp_id();
  const std::int64_t token = blockIdx.y;
  if (r >= vector_rows) return;  // a whole warp
  float sums[kMaxLength] = {};
  for (std::int64_t j = lane_id(); j < p.outlier_size; j += kWarpSize) {
    const std::uint16_t* centroid =
        p.outlier_codebook + static_cast<std::int64_t>(p.outlier_indices[r * p.outlier_size + j]) * p.v0;
    const float value = scaled[token * p.in_features + j];
#pragma unroll
    for (int i = 0; i < kMaxLength; ++i)
      if (i < p.v0) sums[i] = fmaf(widen16<kBf16>(centroid[i]), value, sums[i]);
  }
#pragma unroll
  for (int i = 0; i < kMaxLength; ++i) {
    const float total = warp_sum(sums[i]);
    if (lane_id() == i && i < p.v0 && r * p.v0 + i < p.out_features)
      partials[token * p.out_features + r * p.v0 + i] = total;
  }
}

__global__ void finish_kernel(std::int64_t n_rows, std::int64_t n_tokens, std::int64_t n_parts, const float* partials,
                              std::int64_t n_chunks, const float* bias_parts, bool accumulate, float* out) {
  for (std::int64_t i = global_thread(); i < n_tokens * n_rows; i += global_threads()) {
    float sum = 0;
    for (std::int64_t part = 0; part < n_parts; ++part) sum += partials[part * n_tokens * n_rows + i];
    float bias = 0;
    for (std::int64_t chunk = 0; chunk < n_chunks; ++chunk) bias += bias_parts[i / n_rows * n_chunks + chunk];
    sum += bias;
    out[i] = accumulate ? out[i] + sum : sum;
  }
}

/// The parts of one pass of at most kTokens tokens.
template <int kV, int kTokens, bool kBf16>
void product(Native& gpu, const PackedVptq& p, Split s, std::int64_t n_tokens, const float* scaled, float* partials) {
  const std::int64_t centroids =
      (std::int64_t{1} << p.main_bits) + (p.residual_bits > 0 ? std::int64_t{1} << p.residual_bits : 0);
  const std::int64_t staged_bytes = centroids * staged_stride<kV>() * std::int64_t{sizeof(std::uint16_t)};
  const bool staged = staged_bytes <= gpu.shared_bytes_a_block;
  // A staged codebook is worth many rows: as many blocks as the GPU holds at once; else one row a warp.
  const std::int64_t segments = p.groups * s.splits;
  const std::int64_t resident =
      staged ? std::clamp<std::int64_t>(gpu.shared_bytes_a_block / std::max<std::int64_t>(staged_bytes, 1), 1, 4) : 4;
  const std::int64_t tiles = std::max<std::int64_t>(1, resident * gpu.n_multiprocessors / segments);
  s.rows_a_block = staged ? core::ceil_div(core::ceil_div(s.vector_rows, tiles), kWarps) * kWarps : kWarps;
  const dim3 grid = grid_of(core::ceil_div(s.vector_rows, s.rows_a_block), s.splits, p.groups);
  const auto kernel = staged ? product_kernel<kV, kTokens, kBf16, true> : product_kernel<kV, kTokens, kBf16, false>;
  launch(gpu, kernel, grid, dim3(kThreads), staged ? staged_bytes : 0, p, s, static_cast<int>(n_tokens), scaled,
         partials);
}

/// Tokens of a pass: their sums must fit the registers of a thread.
template <int kV>
constexpr int kPass = kV == 4   ? 8
                      : kV <= 8 ? 4
                                : 2;

template <int kV>
void product(Native& gpu, const PackedVptq& p, const Split& s, std::int64_t n_tokens, const float* scaled,
             float* partials) {
  const bool bf16 = p.dtype == core::DType::bf16;
  const auto pass = n_tokens == 1 ? (bf16 ? product<kV, 1, true> : product<kV, 1, false>)
                                  : (bf16 ? product<kV, kPass<kV>, true> : product<kV, kPass<kV>, false>);
  pass(gpu, p, s, n_tokens, scaled, partials);
}

using Product = void (*)(Native&, const PackedVptq&, const Split&, std::int64_t, const float*, float*);

struct Length {
  Product product = nullptr;
  std::int64_t pass = 0;
};

Length of_length(std::int64_t v) {
  switch (v) {
    case 4:
      return {product<4>, kPass<4>};
    case 6:
      return {product<6>, kPass<6>};
    case 8:
      return {product<8>, kPass<8>};
    case 12:
      return {product<12>, kPass<12>};
    case 16:
      return {product<16>, kPass<16>};
    default:
      return {};
  }
}

/// Tokens [first, first + n) of the caller.
void multiply(Native& gpu, const PackedVptq& p, const Length& length, std::int64_t n, const float* x, bool accumulate,
              float* out) {
  const bool bf16 = p.dtype == core::DType::bf16, outliers = p.outlier_size > 0;
  Split s;
  s.vector_rows = core::ceil_div(p.out_features, p.v);
  s.words = core::packed_words(p.group_size, p.main_bits + p.residual_bits);
  const std::int64_t wanted = core::ceil_div(kWarpsWanted, s.vector_rows * p.groups);
  s.columns = std::max(kLeastColumns, core::ceil_div(core::ceil_div(p.group_size, wanted), kWarpSize) * kWarpSize);
  s.splits = core::ceil_div(p.group_size, s.columns);
  const std::int64_t chunks = core::ceil_div(p.in_features, kColumnsAChunk),
                     parts = p.groups * s.splits + (outliers ? 1 : 0);
  const Scratch<float> scaled(gpu, n * p.in_features), bias_parts(gpu, n * chunks),
      partials(gpu, parts * n * p.out_features);
  launch(gpu, bf16 ? scale_tokens_kernel<true> : scale_tokens_kernel<false>, grid_of(chunks, n), dim3(256), 0, p, x,
         scaled.data(), bias_parts.data());
  length.product(gpu, p, s, n, scaled.data(), partials.data());
  if (outliers) {
    const std::int64_t rows = core::ceil_div(p.out_features, p.v0);
    constexpr std::int64_t kRowsABlock = 4;
    launch(gpu, bf16 ? outlier_kernel<true> : outlier_kernel<false>, grid_of(core::ceil_div(rows, kRowsABlock), n),
           dim3(kRowsABlock * kWarpSize), 0, p, rows, scaled.data(),
           partials.data() + (parts - 1) * n * p.out_features);
  }
  launch(gpu, finish_kernel, grid_for(gpu, n * p.out_features, 256), dim3(256), 0, p.out_features, n, parts,
         partials.data(), chunks, bias_parts.data(), accumulate, out);
}

}  // namespace

void fused_matmul(const Exec& exec, const PackedVptq& packed, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxVptqTokens, "a fused product has 1 to 16 tokens");
  const Length length = of_length(packed.v);
  VORONOI_REQUIRE(fused_length(packed),
                  "a fused product has vectors of 4, 6, 8, 12 or 16, outlier vectors of at most 16");
  Native& gpu = native(exec);
  for (std::int64_t first = 0; first < n_tokens; first += length.pass)
    multiply(gpu, packed, length, std::min(length.pass, n_tokens - first), x + first * packed.in_features, accumulate,
             out + first * packed.out_features);
}

}  // namespace voronoi::kernels::gpu
