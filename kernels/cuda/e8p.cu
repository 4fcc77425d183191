// Linears in lattice codes: decoding, bound by the passes over the matrix, and y = x W^T for a few tokens.
//
// Floor of the product: the codes, read once. A warp takes a few rows, so that a token's values are loaded once for
// them, and its lanes take neighbouring codes. Both codebooks are in shared memory.
#include <algorithm>

#include "core/error.h"
#include "core/types.h"
#include "kernels/cuda/families.h"
#include "kernels/cuda/native.h"
#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/product_parts.cuh"
#include "kernels/cuda/rotated.cuh"

namespace voronoi::kernels {
namespace gpu {
namespace {

using e8p::kDim;

constexpr int kThreads = 256;
static_assert(kThreads == e8p::kEntries);
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kRows = 4;                  // of a warp
constexpr std::int64_t kTokensAPass = 8;  // their sums must fit the registers of a thread
// Warps wanted at work, and the least codes of a row for one: a matter of the shape alone, so that sums do not depend
// on the GPU.
constexpr std::int64_t kWarpsWanted = 4096, kLeastCodes = 64;

__constant__ e8p::Words kE8pWords = e8p::kE8p;
__constant__ e8p::Words kE8Words = e8p::kE8;

struct Books {
  std::uint32_t e8p[e8p::kEntries], e8[e8p::kEntries];
};

/// By all threads of a block; both are there behind the barrier.
__device__ __forceinline__ void stage_books(Books& books) {
  books.e8p[threadIdx.x] = kE8pWords.at[threadIdx.x];
  books.e8[threadIdx.x] = kE8Words.at[threadIdx.x];
  sync_threads();
}

/// e8p::nibble_of.
__device__ __forceinline__ int place_of(int i) { return (i % 2) * 4 + i / 2; }

__device__ __forceinline__ float coordinate(std::uint32_t word, int i) {
  return 0.5F * static_cast<float>(static_cast<int>(word >> (4 * place_of(i)) & 15U) - 8);
}

__device__ __forceinline__ void load_e8p(const Books& books, std::uint16_t code, float (&values)[kDim]) {
  const std::uint32_t word = books.e8p[code >> 8];
  std::uint32_t signs = code & 0xFFU;
  const bool odd = count_bits(signs) % 2 != 0;
  if (odd) signs ^= 1U;
  const float shift = odd ? -0.25F : 0.25F;
#pragma unroll
  for (int i = 0; i < kDim; ++i) {
    const float value = coordinate(word, i);
    values[i] = ((signs >> place_of(i) & 1U) != 0 ? -value : value) + shift;
  }
}

/// The codeword at place `at` of all codes, with its residual's: Q / scale, with the roundings of the CPU twin.
__device__ __forceinline__ void load_codeword(const PackedE8p& p, const Books& books, std::int64_t at,
                                              float (&values)[kDim]) {
  load_e8p(books, load_constant(p.codes + at), values);
  if (p.e8_residual != nullptr) {
    const std::uint32_t word = books.e8[load_constant(p.e8_residual + at)];
#pragma unroll
    for (int i = 0; i < kDim; ++i) values[i] += coordinate(word, i) * e8p::kE8Step;
  } else if (p.e8p_residual != nullptr) {
    float rest[kDim];
    load_e8p(books, load_constant(p.e8p_residual + at), rest);
#pragma unroll
    for (int i = 0; i < kDim; ++i) values[i] += rest[i] * e8p::kE8pStep;
  }
}

/// A thread a code.
__global__ void __launch_bounds__(kThreads) codewords_kernel(PackedE8p p, std::int64_t n_groups, float* weight) {
  __shared__ Books books;
  stage_books(books);
  for (std::int64_t at = global_thread(); at < p.out_features * n_groups; at += global_threads()) {
    float values[kDim];
    load_codeword(p, books, at, values);
    const std::int64_t row = at / n_groups, column = at % n_groups * kDim;
    float* target = weight + row * p.in_features + column;
#pragma unroll
    for (int i = 0; i < kDim; ++i)
      if (column + i < p.in_features) target[i] = values[i] * p.scale;
  }
}

/// Block (row tile, split): a warp adds over the split's codes of kRows rows. tokens [n_tokens, in]; partials [splits,
/// n_tokens, out].
template <int kTokens>
__global__ void __launch_bounds__(kThreads)
    product_kernel(PackedE8p p, std::int64_t n_groups, std::int64_t split_groups, int n_tokens, const float* tokens,
                   float* partials) {
  __shared__ Books books;
  stage_books(books);
  const std::int64_t first_row = (static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_id()) * kRows;
  if (first_row >= p.out_features) return;  // a whole warp
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * split_groups;
  const std::int64_t end = first + split_groups < n_groups ? first + split_groups : n_groups;
  float sums[kRows][kTokens] = {};
  for (std::int64_t g = first + lane_id(); g < end; g += kWarpSize) {
    float weights[kRows][kDim];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {  // past the end the last row again
      const std::int64_t row = first_row + r < p.out_features ? first_row + r : p.out_features - 1;
      load_codeword(p, books, row * n_groups + g, weights[r]);
    }
    for (int i = 0; i < kDim; ++i) {
      const std::int64_t column = g * kDim + i;
      if (column >= p.in_features) break;
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float value = t < n_tokens ? tokens[t * p.in_features + column] : 0.0F;
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r][t] = fmaf(weights[r][i], value, sums[r][t]);
      }
    }
  }
  float* target = partials + static_cast<std::int64_t>(blockIdx.y) * n_tokens * p.out_features;
  store_row_sums(sums, first_row, n_tokens, p.out_features, target);
}

std::int64_t groups_of(const PackedE8p& p) { return core::ceil_div(p.in_features, std::int64_t{kDim}); }

void decode_f32(const Exec& exec, const PackedE8p& p, float* weight) {
  Native& gpu = native(exec);
  launch(gpu, codewords_kernel, grid_for(gpu, p.out_features * groups_of(p), kThreads), dim3(kThreads), 0, p,
         groups_of(p), weight);
  turn_back(exec, p, weight);
}

void decode_16(const Exec& exec, const PackedE8p& p, std::uint16_t* weight) {
  decode_narrow(exec, p, decode_f32, weight);
}

/// sums [n, out] = x [n, in] Q^T of one pass.
void multiply_codes(Native& gpu, const PackedE8p& p, std::int64_t n, const float* x, float* sums) {
  const std::int64_t n_groups = groups_of(p);
  const std::int64_t wanted = core::ceil_div(kWarpsWanted, core::ceil_div(p.out_features, std::int64_t{kRows}));
  const std::int64_t split =
      std::max(kLeastCodes, core::ceil_div(core::ceil_div(n_groups, wanted), kWarpSize) * kWarpSize);
  const std::int64_t splits = core::ceil_div(n_groups, split);
  const Scratch<float> partials(gpu, splits * n * p.out_features);
  launch(gpu, n == 1 ? product_kernel<1> : product_kernel<kTokensAPass>,
         grid_of(core::ceil_div(p.out_features, std::int64_t{kWarps * kRows}), splits), dim3(kThreads), 0, p, n_groups,
         split, static_cast<int>(n), x, partials.data());
  launch(gpu, add_codes_kernel<float>, grid_for(gpu, n * p.out_features, kThreads), dim3(kThreads), 0,
         n * p.out_features, splits, partials.data(), p.scale, sums);
}

void fused_matmul(const Exec& exec, const PackedE8p& p, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out) {
  VORONOI_REQUIRE(n_tokens >= 1 && n_tokens <= kMaxE8pTokens, "a fused product has 1 to 16 tokens");
  multiply_turned(exec, p, n_tokens, x, accumulate, out, kTokensAPass, multiply_codes);
}

}  // namespace
}  // namespace gpu

E8pKernels cuda_e8p_kernels() {
  return {.decode_f32 = gpu::decode_f32, .decode_16 = gpu::decode_16, .fused_matmul = gpu::fused_matmul};
}

}  // namespace voronoi::kernels
