// Operations that reduce a row: norms, likelihoods. Bound by reading the row, which comes from the cache the
// second time.
#include "kernels/cuda/choice.cuh"
#include "kernels/cuda/nn.cuh"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kWarps = kNnThreads / 32;
// A row up to this is one warp's; beyond it a whole block's.
constexpr std::int64_t kWarpRow = 1024;

/// One row by kThreads threads, of which this is number `thread`: a warp or the block.
template <int kThreads>
__device__ __forceinline__ void norm_row(std::int64_t dim, const float* x, const float* weight, float eps, float* out,
                                         int thread, float* shared) {
  float sum = 0;
  for (std::int64_t i = thread; i < dim; i += kThreads) sum = fmaf(x[i], x[i], sum);
  if constexpr (kThreads == 32)
    sum = warp_sum(sum);
  else
    sum = block_sum(sum, shared);
  const float factor = 1.0F / sqrtf(sum / static_cast<float>(dim) + eps);
  for (std::int64_t i = thread; i < dim; i += kThreads) out[i] = weight[i] * (x[i] * factor);
}

__global__ void __launch_bounds__(kNnThreads)
    rms_norm_by_warps(std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx, const float* weight,
                      float eps, float* out, std::int64_t ld_out) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp; row < n_rows;
       row += static_cast<std::int64_t>(gridDim.x) * kWarps)
    norm_row<32>(dim, x + row * ldx, weight, eps, out + row * ld_out, lane, nullptr);
}

__global__ void __launch_bounds__(kNnThreads)
    rms_norm_by_blocks(std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx, const float* weight,
                       float eps, float* out, std::int64_t ld_out) {
  __shared__ float shared[kWarps];
  for (std::int64_t row = blockIdx.x; row < n_rows; row += gridDim.x)
    norm_row<kNnThreads>(dim, x + row * ldx, weight, eps, out + row * ld_out, static_cast<int>(threadIdx.x), shared);
}

/// A block a row: the mean, then the squares around it.
__global__ void __launch_bounds__(kNnThreads)
    layer_norm_kernel(std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx, const float* weight,
                      float eps, float* out, std::int64_t ld_out) {
  __shared__ float shared[kWarps];
  for (std::int64_t row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const RowMoments moments = row_moments(dim, x + row * ldx, eps, shared);
    for (std::int64_t i = threadIdx.x; i < dim; i += kNnThreads)
      out[row * ld_out + i] = weight[i] * ((x[row * ldx + i] - moments.mean) * moments.scale);
  }
}

__global__ void __launch_bounds__(kNnThreads) nll_kernel(std::int64_t n_rows, std::int64_t vocab, const float* logits,
                                                         std::int64_t ld, const std::int32_t* target, double* nll) {
  __shared__ RowReduction shared;
  for (std::int64_t row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const float* values = logits + row * ld;
    const LogSumExp all = log_sum_exp(vocab, values, shared);
    if (threadIdx.x == 0) nll[row] = all.value - static_cast<double>(values[target[row]]);
  }
}

__global__ void __launch_bounds__(kNnThreads)
    argmax_kernel(std::int64_t n_rows, std::int64_t vocab, const float* logits, std::int64_t ld, std::int32_t* place) {
  __shared__ Candidate shared[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (std::int64_t row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const float* values = logits + row * ld;
    Candidate best{-INFINITY, 0x7fffffff};
    for (std::int64_t i = threadIdx.x; i < vocab; i += kNnThreads) {
      const Candidate candidate{ordered(values[i]), static_cast<std::int32_t>(i)};
      if (before(candidate, best)) best = candidate;
    }
    best = first_of_warp(best);
    if (lane == 0) shared[warp] = best;
    sync_threads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < kWarps; ++w)
        if (before(shared[w], best)) best = shared[w];
      place[row] = best.place;
    }
    sync_threads();
  }
}

}  // namespace

void rms_norm(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
              const float* weight, float eps, float* out, std::int64_t ld_out) {
  if (n_rows <= 0 || dim <= 0) return;
  if (dim <= kWarpRow)
    launch(native(exec), rms_norm_by_warps, nn_grid(core::ceil_div(n_rows, kWarps)), dim3(kNnThreads), 0, n_rows, dim,
           x, ldx, weight, eps, out, ld_out);
  else
    launch(native(exec), rms_norm_by_blocks, nn_grid(n_rows), dim3(kNnThreads), 0, n_rows, dim, x, ldx, weight, eps,
           out, ld_out);
}

void layer_norm(const Exec& exec, std::int64_t n_rows, std::int64_t dim, const float* x, std::int64_t ldx,
                const float* weight, float eps, float* out, std::int64_t ld_out) {
  if (n_rows <= 0 || dim <= 0) return;
  launch(native(exec), layer_norm_kernel, nn_grid(n_rows), dim3(kNnThreads), 0, n_rows, dim, x, ldx, weight, eps, out,
         ld_out);
}

void nll(const Exec& exec, std::int64_t n_rows, std::int64_t vocab, const float* logits, std::int64_t ld,
         const std::int32_t* target, double* nll) {
  if (n_rows <= 0) return;
  launch(native(exec), nll_kernel, nn_grid(n_rows), dim3(kNnThreads), 0, n_rows, vocab, logits, ld, target, nll);
}

void argmax(const Exec& exec, std::int64_t n_rows, std::int64_t vocab, const float* logits, std::int64_t ld,
            std::int32_t* place) {
  if (n_rows <= 0) return;
  launch(native(exec), argmax_kernel, nn_grid(n_rows), dim3(kNnThreads), 0, n_rows, vocab, logits, ld, place);
}

}  // namespace voronoi::kernels::gpu
