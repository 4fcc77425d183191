// Linears packed in GPTVQ's codes: decoding, bound by the write of the matrix, and y = x W^T for a few tokens.
//
// Floor of the product: the indices, read once; codebooks of a few hundred bytes a group stay in L1. A warp takes a few
// rows, so that a token's values are loaded once for them, and its lanes take neighbouring vectors: they share the
// words of the indices.
#include <algorithm>

#include "core/error.h"
#include "core/packing.h"
#include "kernels/cuda/families.h"
#include "kernels/cuda/fixed_sums.cuh"
#include "kernels/cuda/native.h"
#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/product_parts.cuh"

namespace voronoi::kernels {
namespace gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kRows = 4;  // of a warp
constexpr std::int64_t kVectorsABlock = 1024;
constexpr std::int64_t kTokensAPass = 8;  // their sums must fit the registers of a thread
// Warps wanted at work, and the least vectors of one: a matter of the shape alone, so that sums do not depend on the
// GPU.
constexpr std::int64_t kWarpsWanted = 4096, kLeastVectors = 256;

/// What follows from the extents, and how the vectors of a row are divided over warps.
struct RowLayout {
  std::int64_t n_vectors = 0, n_strips = 0, n_blocks = 0, words = 0, block_words = 0;
  std::int64_t splits = 0, vectors = 0;  ///< how many, and vectors each but the last
  std::uint32_t group_columns = 1, scale_block = 1;
};

RowLayout layout_of(const PackedGptvq& p) {
  RowLayout row;
  row.n_vectors = p.in_features / p.d;
  row.n_strips = core::ceil_div(p.in_features, p.group_columns);
  row.n_blocks = p.block_codes == nullptr ? 0 : core::ceil_div(p.in_features, p.scale_block);
  row.words = core::packed_words(row.n_vectors, p.index_bits);
  row.block_words = core::packed_words(row.n_blocks, kBlockScaleBits);
  const std::int64_t wanted = core::ceil_div(kWarpsWanted, core::ceil_div(p.out_features, std::int64_t{kRows}));
  row.vectors = std::max(kLeastVectors, core::ceil_div(core::ceil_div(row.n_vectors, wanted), kWarpSize) * kWarpSize);
  row.splits = core::ceil_div(row.n_vectors, row.vectors);
  // Wider ones than the row are as wide as it.
  row.group_columns = static_cast<std::uint32_t>(std::min(p.group_columns, p.in_features));
  row.scale_block = static_cast<std::uint32_t>(std::clamp<std::int64_t>(p.scale_block, 1, p.in_features));
  return row;
}

/// kernels::block_scale in device code.
__device__ __forceinline__ float scale_of_block(float base, float ratio, std::uint32_t code) {
  float scale = base, power = ratio;
#pragma unroll
  for (int bit = 0; bit < kBlockScaleBits; ++bit) {
    if ((code >> bit & 1U) != 0) scale = scale * power;
    power = power * power;
  }
  return scale;
}

/// The block scale of a stored column; there are some.
template <bool kBf16>
__device__ __forceinline__ float scale_at(const PackedGptvq& p, const RowLayout& layout, std::int64_t row,
                                          std::uint32_t stored) {
  const std::uint32_t block = stored / layout.scale_block;
  return scale_of_block(widen16<kBf16>(p.block_grid[2 * block]), widen16<kBf16>(p.block_grid[2 * block + 1]),
                        packed_value(p.block_codes + row * layout.block_words, block, kBlockScaleBits));
}

/// The kD weights of a row's vector j, with the roundings of the CPU twin. first_book: of the row's group; columns are
/// fewer than 2^28, so that their divisions are those of 32 bits.
template <int kD, bool kBf16>
__device__ __forceinline__ void load_vector(const PackedGptvq& p, const RowLayout& layout, std::int64_t row,
                                            std::int64_t first_book, std::uint32_t j, float (&values)[kD]) {
  const std::int64_t book = first_book + j * kD / layout.group_columns;
  const std::int64_t code = packed_value(p.indices + row * layout.words, j, p.index_bits);
  const std::int64_t first = ((book << p.index_bits) + code) * kD;
  if (p.codebook8 != nullptr) {
    const float step = (p.tuned != nullptr ? p.tuned[book] : widen16<kBf16>(p.codebook_scale[book])) * kByteStep;
#pragma unroll
    for (int i = 0; i < kD; ++i) values[i] = step * static_cast<float>(p.codebook8[first + i]);
  } else {
#pragma unroll
    for (int i = 0; i < kD; ++i)
      values[i] = p.tuned != nullptr ? p.tuned[first + i] : widen16<kBf16>(p.codebook[first + i]);
  }
  if (layout.n_blocks == 0) return;
  const float scale = scale_at<kBf16>(p, layout, row, j * kD);
#pragma unroll
  for (int i = 0; i < kD; ++i) values[i] = values[i] * scale;
}

/// Block (row, chunk): its vectors. Neighbouring threads write neighbouring columns unless a permutation scatters them.
template <int kD, bool kBf16, class Out>
__global__ void decode_kernel(PackedGptvq p, RowLayout layout, Out* weight) {
  const std::int64_t row = blockIdx.x, first = static_cast<std::int64_t>(blockIdx.y) * kVectorsABlock;
  const std::int64_t end = first + kVectorsABlock < layout.n_vectors ? first + kVectorsABlock : layout.n_vectors;
  const std::int64_t first_book = row / p.group_rows * layout.n_strips;
  for (std::int64_t j = first + threadIdx.x; j < end; j += blockDim.x) {
    float values[kD];
    load_vector<kD, kBf16>(p, layout, row, first_book, static_cast<std::uint32_t>(j), values);
#pragma unroll
    for (int i = 0; i < kD; ++i) {
      const std::int64_t stored = j * kD + i, column = p.perm != nullptr ? p.perm[stored] : stored;
      store<kBf16>(values[i], weight + row * p.in_features + column);
    }
  }
}

/// ordered [n_tokens, in] in stored order.
__global__ void order_tokens_kernel(PackedGptvq p, const float* x, float* ordered) {
  const std::int64_t token = blockIdx.y, column = global_thread();
  if (column < p.in_features) ordered[token * p.in_features + column] = x[token * p.in_features + p.perm[column]];
}

/// Block (row tile, split): a warp adds over the split's vectors of kRows rows. tokens [n_tokens, in] in stored order;
/// partials [splits, n_tokens, out].
template <int kD, int kTokens, bool kBf16>
__global__ void __launch_bounds__(kThreads)
    product_kernel(PackedGptvq p, RowLayout layout, int n_tokens, const float* tokens, float* partials) {
  const std::int64_t first_row = (static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_id()) * kRows;
  if (first_row >= p.out_features) return;  // a whole warp
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * layout.vectors;
  const std::int64_t end = first + layout.vectors < layout.n_vectors ? first + layout.vectors : layout.n_vectors;
  std::int64_t rows[kRows], first_books[kRows];  // past the end the last one again
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    rows[r] = first_row + r < p.out_features ? first_row + r : p.out_features - 1;
    first_books[r] = rows[r] / p.group_rows * layout.n_strips;
  }
  float sums[kRows][kTokens] = {};
  for (std::int64_t j = first + lane_id(); j < end; j += kWarpSize) {
    float values[kTokens][kD];
#pragma unroll
    for (int t = 0; t < kTokens; ++t)
#pragma unroll
      for (int i = 0; i < kD; ++i) values[t][i] = t < n_tokens ? tokens[t * p.in_features + j * kD + i] : 0.0F;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float weights[kD];
      load_vector<kD, kBf16>(p, layout, rows[r], first_books[r], static_cast<std::uint32_t>(j), weights);
#pragma unroll
      for (int t = 0; t < kTokens; ++t)
#pragma unroll
        for (int i = 0; i < kD; ++i) sums[r][t] = fmaf(weights[i], values[t][i], sums[r][t]);
    }
  }
  float* target = partials + static_cast<std::int64_t>(blockIdx.y) * n_tokens * p.out_features;
  store_row_sums(sums, first_row, n_tokens, p.out_features, target);
}

template <int kD, class Out>
auto decode_of(bool bf16) {
  return bf16 ? decode_kernel<kD, true, Out> : decode_kernel<kD, false, Out>;
}

template <class Out>
void decode(const Exec& exec, const PackedGptvq& p, Out* weight) {
  const bool bf16 = p.dtype == core::DType::bf16;
  const RowLayout layout = layout_of(p);
  const auto kernel = p.d == 1 ? decode_of<1, Out>(bf16) : p.d == 2 ? decode_of<2, Out>(bf16) : decode_of<4, Out>(bf16);
  launch(native(exec), kernel, grid_of(p.out_features, core::ceil_div(layout.n_vectors, kVectorsABlock)),
         dim3(kThreads), 0, p, layout, weight);
}

template <int kD>
auto product_of(bool one, bool bf16) {
  if (one) return bf16 ? product_kernel<kD, 1, true> : product_kernel<kD, 1, false>;
  return bf16 ? product_kernel<kD, kTokensAPass, true> : product_kernel<kD, kTokensAPass, false>;
}

/// Tokens of one pass.
void multiply(Native& gpu, const PackedGptvq& p, std::int64_t n, const float* x, bool accumulate, float* out) {
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
  const auto kernel = p.d == 1   ? product_of<1>(n == 1, bf16)
                      : p.d == 2 ? product_of<2>(n == 1, bf16)
                                 : product_of<4>(n == 1, bf16);
  launch(gpu, kernel, grid_of(core::ceil_div(p.out_features, std::int64_t{kWarps * kRows}), layout.splits),
         dim3(kThreads), 0, p, layout, static_cast<int>(n), tokens, partials.data());
  add_product_parts(gpu, n * p.out_features, layout.splits, partials.data(), accumulate, out);
}

void fused_matmul(const Exec& exec, const PackedGptvq& packed, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxGptvqTokens, "a fused product has 1 to 16 tokens");
  Native& gpu = native(exec);
  for (std::int64_t first = 0; first < n_tokens; first += kTokensAPass)
    multiply(gpu, packed, std::min(kTokensAPass, n_tokens - first), x + first * packed.in_features, accumulate,
             out + first * packed.out_features);
}

__device__ __forceinline__ std::int64_t place_of(const PackedGptvq& p, std::int64_t row, std::int64_t stored) {
  return row * p.in_features + (p.perm != nullptr ? p.perm[stored] : stored);
}

/// Block (strip, row group): the sum of its codebook's weights.
__global__ void __launch_bounds__(kThreads)
    scale_gradient_kernel(PackedGptvq p, const float* weight, const float* d_weight, float* d_scale) {
  __shared__ float partial[kWarpSize];
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * p.group_columns;
  const std::int64_t end = first + p.group_columns < p.in_features ? first + p.group_columns : p.in_features;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * p.group_rows;
  const std::int64_t end_row = first_row + p.group_rows < p.out_features ? first_row + p.group_rows : p.out_features;
  float sum = 0;
  for (std::int64_t row = first_row; row < end_row; ++row)
    for (std::int64_t stored = first + threadIdx.x; stored < end; stored += kThreads) {
      const std::int64_t at = place_of(p, row, stored);
      sum = fmaf(d_weight[at], weight[at], sum);
    }
  const float total = block_sum(sum, partial);
  const std::int64_t book = static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  if (threadIdx.x == 0 && p.tuned[book] != 0) d_scale[book] += total / p.tuned[book];
}

/// use(place of a weight's number in the codebooks, d_weight times the block scale) for the weights of a thread.
template <bool kBf16, class Use>
__device__ __forceinline__ void visit_terms(const PackedGptvq& p, const RowLayout& layout, const float* d_weight,
                                            const Use& use) {
  for (std::int64_t at = global_thread(); at < p.out_features * p.in_features; at += global_threads()) {
    const std::int64_t row = at / p.in_features;
    const auto stored = static_cast<std::uint32_t>(at % p.in_features), d = static_cast<std::uint32_t>(p.d);
    const std::int64_t book = row / p.group_rows * layout.n_strips + stored / layout.group_columns;
    const std::int64_t code = packed_value(p.indices + row * layout.words, stored / d, p.index_bits);
    const float scale = layout.n_blocks > 0 ? scale_at<kBf16>(p, layout, row, stored) : 1.0F;
    use(((book << p.index_bits) + code) * p.d + stored % d, d_weight[place_of(p, row, stored)] * scale);
  }
}

template <bool kBf16>
__global__ void __launch_bounds__(kThreads)
    largest_term_kernel(PackedGptvq p, RowLayout layout, const float* d_weight, int* largest) {
  __shared__ int block_largest;
  if (threadIdx.x == 0) block_largest = 0;
  sync_threads();
  std::uint32_t most = 0;
  visit_terms<kBf16>(p, layout, d_weight, [&](std::int64_t, float term) { most = larger_magnitude(most, term); });
  atomic_max(&block_largest, static_cast<int>(most));
  sync_threads();
  if (threadIdx.x == 0) atomic_max(largest, block_largest);
}

template <bool kBf16>
__global__ void __launch_bounds__(kThreads)
    centroid_terms_kernel(PackedGptvq p, RowLayout layout, FixedPoint point, const float* d_weight, const int* largest,
                          Fixed* sums) {
  if (!FixedPoint::finite(*largest)) return;
  const double factor = point.factor(*largest);
  visit_terms<kBf16>(p, layout, d_weight,
                     [&](std::int64_t place, float term) { add_fixed(term, factor, sums + place); });
}

__global__ void __launch_bounds__(kThreads)
    add_centroids_kernel(std::int64_t n, FixedPoint point, const Fixed* sums, const int* largest, float* d_codebook) {
  for (std::int64_t i = global_thread(); i < n; i += global_threads()) d_codebook[i] += point.value(sums[i], *largest);
}

void gradient(const Exec& exec, const PackedGptvq& p, const float* weight, const float* d_weight, float* d_tuned) {
  Native& gpu = native(exec);
  if (p.codebook8 != nullptr) {
    launch(gpu, scale_gradient_kernel, grid_of(p.strips(), p.row_groups()), dim3(kThreads), 0, p, weight, d_weight,
           d_tuned);
    return;
  }
  const RowLayout layout = layout_of(p);
  const std::int64_t n = p.out_features * p.in_features, n_sums = p.row_groups() * p.strips() * p.book_size();
  const FixedPoint point = fixed_point(n);
  const Scratch<Fixed> sums(gpu, n_sums);
  const Scratch<int> largest(gpu, 1);
  VORONOI_CUDA_CHECK(cudaMemsetAsync(largest.data(), 0, sizeof(int), gpu.stream));
  VORONOI_CUDA_CHECK(cudaMemsetAsync(sums.data(), 0, static_cast<std::size_t>(n_sums) * sizeof(Fixed), gpu.stream));
  const bool bf16 = p.dtype == core::DType::bf16;
  launch(gpu, bf16 ? largest_term_kernel<true> : largest_term_kernel<false>, grid_for(gpu, n, kThreads), dim3(kThreads),
         0, p, layout, d_weight, largest.data());
  launch(gpu, bf16 ? centroid_terms_kernel<true> : centroid_terms_kernel<false>, grid_for(gpu, n, kThreads),
         dim3(kThreads), 0, p, layout, point, d_weight, largest.data(), sums.data());
  launch(gpu, add_centroids_kernel, grid_for(gpu, n_sums, kThreads), dim3(kThreads), 0, n_sums, point, sums.data(),
         largest.data(), d_tuned);
}

}  // namespace
}  // namespace gpu

GptvqKernels cuda_gptvq_kernels() {
  return {.decode_f32 = gpu::decode<float>,
          .decode_16 = gpu::decode<std::uint16_t>,
          .fused_matmul = gpu::fused_matmul,
          .gradient = gpu::gradient};
}

}  // namespace voronoi::kernels
