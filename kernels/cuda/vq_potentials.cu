// Starting points of k-means, and the table of the family.
#include <memory>

#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/families.h"
#include "kernels/cuda/native.h"
#include "kernels/cuda/vq_family.h"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kParts = 16;    // interleaved sums a block of points
constexpr int kTogether = 8;  // candidates whose potentials are in shared memory at a time
constexpr int kBlock = static_cast<int>(kPotentialBlock);
static_assert(kTogether * kParts <= kThreads && kBlock % kThreads == 0);

/// The CPU twin's bits: 16 chains of fused multiply-adds in rising order, added in fp64. Bound by the chains' latency
/// (64 steps) where a sample fills the GPU, by reading the points otherwise.
__global__ void __launch_bounds__(kThreads, 4)
    sum_potentials(std::int64_t n, int dim, const float* __restrict__ columns, const float* __restrict__ weights,
                   float* distance2, int n_candidates, const float* __restrict__ candidates, bool update,
                   double* __restrict__ block_sums) {
  __shared__ float lows[kTogether][kBlock], weight[kBlock];
  __shared__ float parts[kTogether][kParts];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kBlock;
  const int count = n - begin < kBlock ? static_cast<int>(n - begin) : kBlock;
  for (int i = thread; i < count; i += kThreads) weight[i] = weights[begin + i];
  for (int first = 0; first < n_candidates; first += kTogether) {
    const int together = n_candidates - first < kTogether ? n_candidates - first : kTogether;
    sync_threads();
    for (int i = thread; i < count; i += kThreads) {
      const float nearest_so_far = distance2[begin + i];
      for (int c = 0; c < together; ++c) {
        const float* candidate = candidates + static_cast<std::int64_t>(first + c) * dim;
        float gap2 = 0;
        for (int d = 0; d < dim; ++d) {
          const float gap = columns[d * n + begin + i] - candidate[d];
          gap2 = fmaf(gap, gap, gap2);
        }
        const float low = nearest_so_far < gap2 ? nearest_so_far : gap2;
        if (update) distance2[begin + i] = low;
        lows[c][i] = low;
      }
    }
    sync_threads();
    if (thread < together * kParts) {
      const int c = thread / kParts, part = thread % kParts;
      float sum = 0;
      for (int i = part; i < count; i += kParts) sum = fmaf(weight[i], lows[c][i], sum);
      parts[c][part] = sum;
    }
    sync_threads();
    if (thread < together) {
      double sum = 0;
      for (int part = 0; part < kParts; ++part) sum += static_cast<double>(parts[thread][part]);
      block_sums[static_cast<std::int64_t>(blockIdx.x) * n_candidates + first + thread] = sum;
    }
  }
}

/// One thread adds a block's 1024 potentials in order, as the contract asks: some 10 us for as many blocks as fit the
/// GPU.
__global__ void __launch_bounds__(kThreads)
    lower(std::int64_t n, const float* __restrict__ weights, const float* __restrict__ other,
          float* __restrict__ distance2, double* __restrict__ block_sums) {
  __shared__ double potential[kBlock];
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kBlock;
  const int count = n - begin < kBlock ? static_cast<int>(n - begin) : kBlock;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const float had = distance2[begin + i], offered = other[begin + i];
    const float low = offered < had ? offered : had;
    distance2[begin + i] = low;
    potential[i] = static_cast<double>(weights[begin + i]) * static_cast<double>(low);
  }
  sync_threads();
  if (threadIdx.x != 0) return;
  double sum = 0;
#pragma unroll 8
  for (int i = 0; i < count; ++i) sum += potential[i];
  block_sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    check(const std::int64_t* __restrict__ chunk_begin, int dim, const float* __restrict__ points,
          const float* __restrict__ weights, float largest, unsigned* __restrict__ unsound) {
  const std::int64_t chunk = blockIdx.y, begin = chunk_begin[chunk], end = chunk_begin[chunk + 1];
  bool sound = true;
  for (std::int64_t i = begin * dim + global_thread(); i < end * dim; i += global_threads())
    sound = sound && fabsf(points[i]) <= largest;
  for (std::int64_t i = begin + global_thread(); i < end; i += global_threads())
    sound = sound && weights[i] >= 0 && weights[i] < INFINITY;
  if (!sound) atomic_or(unsound + chunk, 1U);
}

void potentials(const Exec& exec, std::int64_t n, std::int64_t dim, const float* columns, const float* weights,
                float* distance2, std::int64_t n_candidates, const float* candidates, bool update, double* block_sums) {
  VORONOI_REQUIRE(n >= 0 && dim >= 1 && n_candidates >= 1, "potentials: n >= 0, dim >= 1, a candidate");
  VORONOI_REQUIRE(!update || n_candidates == 1, "potentials: one candidate at a time can become a seed");
  launch(native(exec), sum_potentials, grid_of(core::ceil_div(n, kPotentialBlock)), dim3(kThreads), 0, n,
         static_cast<int>(dim), columns, weights, distance2, static_cast<int>(n_candidates), candidates, update,
         block_sums);
}

void lower_potentials(const Exec& exec, std::int64_t n, const float* weights, const float* other, float* distance2,
                      double* block_sums) {
  launch(native(exec), lower, grid_of(core::ceil_div(n, kPotentialBlock)), dim3(kThreads), 0, n, weights, other,
         distance2, block_sums);
}

void check_points(const Exec& exec, std::int64_t n_chunks, const std::int64_t* chunk_begin, std::int64_t dim,
                  const float* points, const float* weights, float largest, bool* sound) {
  if (n_chunks == 0) return;
  Native& open = native(exec);
  const Scratch<std::int64_t> begin(open, n_chunks + 1);
  copy_in(open, chunk_begin, (n_chunks + 1) * std::int64_t{sizeof(std::int64_t)}, begin.data());
  const Scratch<unsigned> unsound(open, n_chunks);
  const std::int64_t bytes = n_chunks * std::int64_t{sizeof(unsigned)};
  VORONOI_CUDA_CHECK(cudaMemsetAsync(unsound.data(), 0, static_cast<std::size_t>(bytes), open.stream));
  const std::int64_t values = (chunk_begin[n_chunks] - chunk_begin[0]) * dim;
  const dim3 blocks = grid_for(open, core::ceil_div(values, n_chunks) + 1, kThreads);
  launch(open, check, grid_of(blocks.x, n_chunks), dim3(kThreads), 0, begin.data(), static_cast<int>(dim), points,
         weights, largest, unsound.data());
  const auto flags = std::make_unique<unsigned[]>(static_cast<std::size_t>(n_chunks));
  copy_out(open, unsound.data(), bytes, flags.get());
  for (std::int64_t c = 0; c < n_chunks; ++c) sound[c] = flags[static_cast<std::size_t>(c)] == 0;
}

}  // namespace
}  // namespace voronoi::kernels::gpu

namespace voronoi::kernels {

VqKernels cuda_vq_kernels() {
  return {.nearest = gpu::nearest,
          .nearest_from = gpu::nearest_from,
          .nearest_m = gpu::nearest_m,
          .centroid_sums = gpu::centroid_sums,
          .potentials = gpu::potentials,
          .lower_potentials = gpu::lower_potentials,
          .check_points = gpu::check_points};
}

}  // namespace voronoi::kernels
