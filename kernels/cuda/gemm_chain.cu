// A product on fp32 units whose every element is the CPU's chain: fused multiply-adds in order of k, started anew every
// kGemmDepth, merged with C by the CPU's steps. cuBLAS chooses another kernel, and with it another order, for another
// width or alignment, so it cannot serve where an operator's rows are divided over ranks. Bound by fp32 units: 64
// products a thread for 16 values from shared memory; each value of A and B is read once a tile of 128.
#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/gemm_chain.h"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kTile = 128, kStep = 16, kThreads = 256, kLd = kTile + 4;
constexpr int kLoads = kTile * kStep / kThreads;

/// A tile of kTile rows and kStep of k of an operand, whose neighbours in memory lie along k or across it.
template <bool kAlongK>
struct Loader {
  const float* source;
  std::int64_t ld, first, extent, k;

  static __device__ __forceinline__ int row(int load) {
    const int at = static_cast<int>(threadIdx.x) + load * kThreads;
    return kAlongK ? at / kStep : at % kTile;
  }
  static __device__ __forceinline__ int step(int load) {
    const int at = static_cast<int>(threadIdx.x) + load * kThreads;
    return kAlongK ? at % kStep : at / kTile;
  }
  __device__ __forceinline__ void read(std::int64_t from, float (&values)[kLoads]) const {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const std::int64_t r = first + row(i), p = from + step(i);
      values[i] = r < extent && p < k ? source[kAlongK ? r * ld + p : p * ld + r] : 0.0F;
    }
  }
  static __device__ __forceinline__ void store(const float (&values)[kLoads], float (&tile)[kStep][kLd]) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) tile[step(i)][row(i)] = values[i];
  }
};

/// Element e of a thread's 8: two groups of 4 neighbours, 64 apart, so that a warp reads whole lines of shared memory.
__device__ __forceinline__ int place(int thread, int e) { return e / 4 * (kTile / 2) + thread * 4 + e % 4; }

__device__ __forceinline__ void multiply_step(const float* a, const float* b, int ty, int tx, float (&sum)[8][8]) {
  __align__(16) float left[8], right[8];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    *reinterpret_cast<float4*>(left + 4 * half) = *reinterpret_cast<const float4*>(a + place(ty, 4 * half));
    *reinterpret_cast<float4*>(right + 4 * half) = *reinterpret_cast<const float4*>(b + place(tx, 4 * half));
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) sum[i][j] = fmaf(left[i], right[j], sum[i][j]);
}

template <bool kTransposeA, bool kTransposeB>
__global__ void __launch_bounds__(kThreads) multiply_tiles(const MatrixProduct<float> p) {
  __shared__ __align__(16) float a_tile[kStep][kLd], b_tile[kStep][kLd];
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * kTile,
                     first_column = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const Loader<!kTransposeA> a{p.a, p.lda, first_row, p.m, p.k};
  const Loader<kTransposeB> b{p.b, p.ldb, first_column, p.n, p.k};
  float sum[8][8], a_next[kLoads], b_next[kLoads];
  a.read(0, a_next);
  b.read(0, b_next);
  for (std::int64_t begin = 0; begin < p.k; begin += kGemmDepth) {
    const std::int64_t end = begin + kGemmDepth < p.k ? begin + kGemmDepth : p.k;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[i][j] = 0.0F;
    for (std::int64_t from = begin; from < end; from += kStep) {
      sync_threads();
      a.store(a_next, a_tile);
      b.store(b_next, b_tile);
      sync_threads();
      // On their way while this step is multiplied.
      a.read(from + kStep, a_next);
      b.read(from + kStep, b_next);
      if (end - from >= kStep) {
#pragma unroll 2
        for (int step = 0; step < kStep; ++step) multiply_step(a_tile[step], b_tile[step], ty, tx, sum);
      } else {
#pragma unroll 1
        for (int step = 0; step < static_cast<int>(end - from); ++step)
          multiply_step(a_tile[step], b_tile[step], ty, tx, sum);
      }
    }
    const float beta = begin == 0 ? p.beta : 1.0F;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const std::int64_t row = first_row + place(ty, i);
      if (row >= p.m) continue;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const std::int64_t column = first_column + place(tx, j);
        if (column >= p.n) continue;
        float& target = p.c[row * p.ldc + column];
        const float value = p.alpha != 1.0F ? p.alpha * sum[i][j] : sum[i][j];
        target = beta == 0.0F ? value : beta == 1.0F ? target + value : fmaf(beta, target, value);
      }
    }
  }
}

}  // namespace

void gemm_chain(Native& native, const MatrixProduct<float>& p) {
  const dim3 grid = grid_of(core::ceil_div(p.n, kTile), core::ceil_div(p.m, kTile));
  const auto kernel = p.transpose_a ? (p.transpose_b ? multiply_tiles<true, true> : multiply_tiles<true, false>)
                                    : (p.transpose_b ? multiply_tiles<false, true> : multiply_tiles<false, false>);
  launch(native, kernel, grid, kThreads, 0, p);
}

}  // namespace voronoi::kernels::gpu
