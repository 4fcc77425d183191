// Linears packed in additive codes: decoding, bound by the write of the matrix, y = x W^T for a few tokens, and the
// gradient of the numbers.
//
// Floor of the product: the codes, read once; codebooks of 256 centroids stay in L1, those of 65536 (1 MiB) in L2. A
// warp takes a few rows, so that a token's values are loaded once for them. What a thread takes at a time is a part of
// a group: 8, 4 or 1 columns, so that a centroid is read by wide loads.
#include <algorithm>
#include <type_traits>

#include "core/error.h"
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
constexpr std::int64_t kPartsABlock = 1024;
constexpr std::int64_t kTokensAPass = 8;  // their sums must fit the registers of a thread
// Warps wanted at work, and the least parts of one: a matter of the shape alone, so that sums do not depend on the GPU.
constexpr std::int64_t kWarpsWanted = 4096, kLeastParts = 128;

/// The numbers of a packed linear as stored.
template <bool kBf16>
struct StoredBooks {
  const std::uint16_t *codebook, *scales;
  template <int kPart>
  __device__ __forceinline__ void load(std::int64_t place, float (&values)[kPart]) const {
    if constexpr (kPart == 1)
      values[0] = widen16<kBf16>(codebook[place]);
    else
      load_centroid<kPart, kBf16, false>(codebook + place, values);
  }
  __device__ __forceinline__ float scale(std::int64_t row) const { return widen16<kBf16>(scales[row]); }
};

/// Those that are being tuned.
struct TunedBooks {
  const float *codebook, *scales;
  template <int kPart>
  __device__ __forceinline__ void load(std::int64_t place, float (&values)[kPart]) const {
#pragma unroll
    for (int i = 0; i < kPart; ++i) values[i] = codebook[place + i];
  }
  __device__ __forceinline__ float scale(std::int64_t row) const { return scales[row]; }
};

/// Place in the codebooks of the centroid that part `u` of a row (of parts of kPart columns) has of codebook m.
template <int kPart>
__device__ __forceinline__ std::int64_t place_of(const PackedAqlm& p, std::int64_t row, std::uint32_t u,
                                                 std::int64_t m) {
  const std::uint32_t parts = static_cast<std::uint32_t>(p.group) / kPart, j = u / parts;
  const std::int64_t at = (row * (p.in_features / p.group) + j) * p.codebooks + m;
  const std::uint32_t stored = p.codes8 != nullptr ? p.codes8[at] : p.codes16[at];
  const std::int64_t code = stored & ((1U << p.code_bits) - 1U);
  return ((m << p.code_bits) + code) * p.group + (u - j * parts) * kPart;
}

/// The sum of the centroids of a part, with the roundings of the CPU twin.
template <int kPart, class Books>
__device__ __forceinline__ void sum_centroids(const PackedAqlm& p, const Books& books, std::int64_t row,
                                              std::uint32_t u, float (&sums)[kPart]) {
#pragma unroll
  for (int i = 0; i < kPart; ++i) sums[i] = 0;
  for (std::int64_t m = 0; m < p.codebooks; ++m) {
    float values[kPart];
    books.load(place_of<kPart>(p, row, u, m), values);
#pragma unroll
    for (int i = 0; i < kPart; ++i) sums[i] = sums[i] + values[i];
  }
}

/// Block (row, chunk): its parts.
template <int kPart, bool kBf16, class Books, class Out>
__global__ void decode_kernel(PackedAqlm p, Books books, Out* weight) {
  const std::int64_t row = blockIdx.x, first = static_cast<std::int64_t>(blockIdx.y) * kPartsABlock;
  const std::int64_t n_parts = p.in_features / kPart;
  const std::int64_t end = first + kPartsABlock < n_parts ? first + kPartsABlock : n_parts;
  const float scale = books.scale(row);
  for (std::int64_t u = first + threadIdx.x; u < end; u += blockDim.x) {
    float values[kPart];
    sum_centroids(p, books, row, static_cast<std::uint32_t>(u), values);
#pragma unroll
    for (int i = 0; i < kPart; ++i) store<kBf16>(values[i] * scale, weight + row * p.in_features + u * kPart + i);
  }
}

/// Block (row tile, split): a warp adds over the split's parts of kRows rows. partials [splits, n_tokens, out].
template <int kPart, int kTokens, bool kBf16>
__global__ void __launch_bounds__(kThreads)
    product_kernel(PackedAqlm p, StoredBooks<kBf16> books, std::int64_t split_parts, int n_tokens, const float* x,
                   float* partials) {
  const std::int64_t first_row = (static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_id()) * kRows;
  if (first_row >= p.out_features) return;  // a whole warp
  const std::int64_t n_parts = p.in_features / kPart, first = static_cast<std::int64_t>(blockIdx.y) * split_parts;
  const std::int64_t end = first + split_parts < n_parts ? first + split_parts : n_parts;
  std::int64_t rows[kRows];  // past the end the last one again
  float scales[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    rows[r] = first_row + r < p.out_features ? first_row + r : p.out_features - 1;
    scales[r] = books.scale(rows[r]);
  }
  float sums[kRows][kTokens] = {};
  for (std::int64_t u = first + lane_id(); u < end; u += kWarpSize) {
    float values[kTokens][kPart];
#pragma unroll
    for (int t = 0; t < kTokens; ++t)
#pragma unroll
      for (int i = 0; i < kPart; ++i) values[t][i] = t < n_tokens ? x[t * p.in_features + u * kPart + i] : 0.0F;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float weights[kPart];
      sum_centroids(p, books, rows[r], static_cast<std::uint32_t>(u), weights);
#pragma unroll
      for (int i = 0; i < kPart; ++i) {
        const float weight = weights[i] * scales[r];
#pragma unroll
        for (int t = 0; t < kTokens; ++t) sums[r][t] = fmaf(weight, values[t][i], sums[r][t]);
      }
    }
  }
  float* target = partials + static_cast<std::int64_t>(blockIdx.y) * n_tokens * p.out_features;
  store_row_sums(sums, first_row, n_tokens, p.out_features, target);
}

/// Block row: its scale's sum, and the largest magnitude of d_weight times scale.
template <int kPart>
__global__ void __launch_bounds__(kThreads)
    scale_gradient_kernel(PackedAqlm p, TunedBooks books, const float* d_weight, int* largest, float* d_scale) {
  __shared__ float partial[kWarpSize];
  __shared__ int block_largest;
  if (threadIdx.x == 0) block_largest = 0;
  sync_threads();
  const std::int64_t row = blockIdx.x, n_parts = p.in_features / kPart;
  const float scale = books.scale(row);
  float sum = 0;
  std::uint32_t most = 0;
  for (std::int64_t u = threadIdx.x; u < n_parts; u += blockDim.x) {
    float values[kPart];
    sum_centroids(p, books, row, static_cast<std::uint32_t>(u), values);
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
      const float d = d_weight[row * p.in_features + u * kPart + i];
      sum = fmaf(d, values[i], sum);
      most = larger_magnitude(most, d * scale);
    }
  }
  atomic_max(&block_largest, static_cast<int>(most));
  const float total = block_sum(sum, partial);
  if (threadIdx.x != 0) return;
  d_scale[row] += total;
  atomic_max(largest, block_largest);
}

/// Block row.
template <int kPart>
__global__ void __launch_bounds__(kThreads)
    codebook_gradient_kernel(PackedAqlm p, FixedPoint point, TunedBooks books, const float* d_weight,
                             const int* largest, Fixed* sums) {
  if (!FixedPoint::finite(*largest)) return;
  const std::int64_t row = blockIdx.x, n_parts = p.in_features / kPart;
  const float scale = books.scale(row);
  const double factor = point.factor(*largest);
  for (std::int64_t u = threadIdx.x; u < n_parts; u += blockDim.x)
    for (std::int64_t m = 0; m < p.codebooks; ++m) {
      Fixed* target = sums + place_of<kPart>(p, row, static_cast<std::uint32_t>(u), m);
#pragma unroll
      for (int i = 0; i < kPart; ++i)
        add_fixed(d_weight[row * p.in_features + u * kPart + i] * scale, factor, target + i);
    }
}

__global__ void __launch_bounds__(kThreads)
    add_sums_kernel(std::int64_t n, FixedPoint point, const Fixed* sums, const int* largest, float* d_codebook) {
  for (std::int64_t i = global_thread(); i < n; i += global_threads()) d_codebook[i] += point.value(sums[i], *largest);
}

/// use(std::integral_constant of the columns of a part).
template <class Use>
void with_part(const PackedAqlm& p, const Use& use) {
  if (p.group % 8 == 0)
    use(std::integral_constant<int, 8>());
  else if (p.group % 4 == 0)
    use(std::integral_constant<int, 4>());
  else
    use(std::integral_constant<int, 1>());
}

/// One kernel for all types that numbers are stored in, and one for those that are tuned.
template <bool kBf16, class Books, class Out>
void decode_with(const Exec& exec, const PackedAqlm& p, const Books& books, Out* weight) {
  with_part(p, [&](auto part) {
    constexpr int kPart = decltype(part)::value;
    launch(native(exec), decode_kernel<kPart, kBf16, Books, Out>,
           grid_of(p.out_features, core::ceil_div(p.in_features / kPart, kPartsABlock)), dim3(kThreads), 0, p, books,
           weight);
  });
}

template <class Out>
void decode(const Exec& exec, const PackedAqlm& p, Out* weight) {
  if (p.dtype == core::DType::bf16)
    decode_with<true>(exec, p, StoredBooks<true>{p.codebook, p.scale}, weight);
  else
    decode_with<false>(exec, p, StoredBooks<false>{p.codebook, p.scale}, weight);
}

void decode_tuned(const Exec& exec, const TunedAqlm& tuned, float* weight) {
  decode_with<false>(exec, tuned.packed, TunedBooks{tuned.codebook, tuned.scale}, weight);
}

/// Tokens of one pass.
template <bool kBf16>
void multiply(Native& gpu, const PackedAqlm& p, std::int64_t n, const float* x, bool accumulate, float* out) {
  with_part(p, [&](auto part) {
    constexpr int kPart = decltype(part)::value;
    const std::int64_t n_parts = p.in_features / kPart, row_tiles = core::ceil_div(p.out_features, std::int64_t{kRows});
    const std::int64_t wanted = core::ceil_div(kWarpsWanted, row_tiles);
    const std::int64_t split_parts =
        std::max(kLeastParts, core::ceil_div(core::ceil_div(n_parts, wanted), kWarpSize) * kWarpSize);
    const std::int64_t splits = core::ceil_div(n_parts, split_parts);
    const Scratch<float> partials(gpu, splits * n * p.out_features);
    const auto kernel = n == 1 ? product_kernel<kPart, 1, kBf16> : product_kernel<kPart, kTokensAPass, kBf16>;
    launch(gpu, kernel, grid_of(core::ceil_div(p.out_features, std::int64_t{kWarps * kRows}), splits), dim3(kThreads),
           0, p, StoredBooks<kBf16>{p.codebook, p.scale}, split_parts, static_cast<int>(n), x, partials.data());
    add_product_parts(gpu, n * p.out_features, splits, partials.data(), accumulate, out);
  });
}

void fused_matmul(const Exec& exec, const PackedAqlm& p, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxAqlmTokens, "a fused product has 1 to 16 tokens");
  Native& gpu = native(exec);
  for (std::int64_t first = 0; first < n_tokens; first += kTokensAPass) {
    const auto pass = p.dtype == core::DType::bf16 ? multiply<true> : multiply<false>;
    pass(gpu, p, std::min(kTokensAPass, n_tokens - first), x + first * p.in_features, accumulate,
         out + first * p.out_features);
  }
}

void gradient(const Exec& exec, const TunedAqlm& tuned, const float* d_weight, float* d_codebook, float* d_scale) {
  Native& gpu = native(exec);
  const PackedAqlm& p = tuned.packed;
  const TunedBooks books{tuned.codebook, tuned.scale};
  const std::int64_t n_sums = p.codebooks * p.book_size();
  // No sum has more terms than the matrix has weights.
  const FixedPoint point = fixed_point(p.in_features * p.out_features);
  const Scratch<Fixed> sums(gpu, n_sums);
  const Scratch<int> largest(gpu, 1);
  VORONOI_CUDA_CHECK(cudaMemsetAsync(largest.data(), 0, sizeof(int), gpu.stream));
  VORONOI_CUDA_CHECK(cudaMemsetAsync(sums.data(), 0, static_cast<std::size_t>(n_sums) * sizeof(Fixed), gpu.stream));
  with_part(p, [&](auto part) {
    constexpr int kPart = decltype(part)::value;
    launch(gpu, scale_gradient_kernel<kPart>, grid_of(p.out_features), dim3(kThreads), 0, p, books, d_weight,
           largest.data(), d_scale);
    launch(gpu, codebook_gradient_kernel<kPart>, grid_of(p.out_features), dim3(kThreads), 0, p, point, books, d_weight,
           largest.data(), sums.data());
  });
  launch(gpu, add_sums_kernel, grid_for(gpu, n_sums, kThreads), dim3(kThreads), 0, n_sums, point, sums.data(),
         largest.data(), d_codebook);
}

}  // namespace
}  // namespace gpu

AqlmKernels cuda_aqlm_kernels() {
  return {.decode_f32 = gpu::decode<float>,
          .decode_16 = gpu::decode<std::uint16_t>,
          .fused_matmul = gpu::fused_matmul,
          .decode_tuned = gpu::decode_tuned,
          .gradient = gpu::gradient};
}

}  // namespace voronoi::kernels
