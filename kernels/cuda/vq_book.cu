#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/vq_book.h"

namespace voronoi::kernels::gpu {
namespace {

constexpr int kThreads = 128;
static_assert(kThreads == kGroupCentroids);

/// One group a block, one centroid a thread. Bound by memory: about 100 bytes a centroid of 8 components.
__global__ void lay_out(int dim, int k, int steps, Halves halves, int tail, const float* __restrict__ centroids,
                        float* __restrict__ fragments, float* __restrict__ rows, int* __restrict__ largest) {
  __shared__ float partial[kWarpSize];
  const int n_groups = static_cast<int>(gridDim.x);
  const std::int64_t book = blockIdx.y;
  const int j = static_cast<int>(blockIdx.x) * kGroupCentroids + static_cast<int>(threadIdx.x);
  const bool present = j < k;
  const float* c = centroids + (book * k + (present ? j : 0)) * dim;
  float* pair = fragments + (book * n_groups + blockIdx.x) * group_floats(steps, halves) +
                static_cast<int>(threadIdx.x) / kPairCentroids * pair_floats(steps, halves);
  float* row = rows + (book * k + j) * row_floats(steps);
  const int second = j % kPairCentroids / 8, column = j % 8;
  // In fp64 and in this order, as the CPU twin makes them.
  double half = 0, tail_half = 0;
  for (int d = 0; d < steps * 8; ++d) {
    const float value = present && d < dim ? c[d] : 0.0F;
    const double square = 0.5 * static_cast<double>(value) * static_cast<double>(value);
    half += square;
    if (d < tail) tail_half += square;
    pair[d / 8 * 128 + (column * 4 + d % 4) * 4 + second * 2 + d % 8 / 4] = bits_float(to_tf32(value));
    if (present) row[d] = value;
  }
  const float stored_half = present ? static_cast<float>(half) : kAbsentHalf;
  if (halves == Halves::compact) {
    pair[steps * 128 + column / 2 * 4 + second * 2 + column % 2] = stored_half;
  } else {
    float* operand = pair + steps * 128 + second * 16 + column / 2 * 4 + column % 2;
    operand[0] = operand[2] = stored_half;
  }
  if (present) {
    row[steps * 8] = static_cast<float>(half);
    row[steps * 8 + 1] = static_cast<float>(tail_half);
    row[steps * 8 + 2] = row[steps * 8 + 3] = 0.0F;
  }
  float norm = present ? static_cast<float>(sqrt(2 * half)) * (1.0F + 0x1p-20F) : 0.0F;
  norm = warp_max(norm);
  if (lane_id() == 0) partial[warp_id()] = norm;
  sync_threads();
  // Floats that are not negative stand in the order of their bits.
  if (threadIdx.x == 0)
    for (int warp = 0; warp < kThreads / kWarpSize; ++warp)
      atomic_max(largest + book, static_cast<int>(float_bits(partial[warp])));
}

}  // namespace

Books::Books(Native& native, std::int64_t n_books, std::int64_t dim, std::int64_t k, const float* centroids, int steps,
             Halves halves, std::int64_t tail)
    : fragments_(native, n_books * core::ceil_div(k, std::int64_t{kGroupCentroids}) * group_floats(steps, halves)),
      rows_(native, n_books * k * row_floats(steps)),
      largest_(native, n_books) {
  VORONOI_REQUIRE(dim >= 1 && dim <= 8 * steps && k >= 1, "a GPU searches vectors of 1 to 32 components");
  const std::int64_t n_groups = core::ceil_div(k, std::int64_t{kGroupCentroids});
  VORONOI_REQUIRE(n_groups <= kMaxGroups, "a GPU searches at most 524288 centroids");
  first_.dim = static_cast<int>(dim);
  first_.steps = steps;
  first_.halves = halves;
  first_.k = static_cast<int>(k);
  first_.n_groups = static_cast<int>(n_groups);
  first_.id_bits = std::bit_width(static_cast<unsigned>(n_groups - 1));
  first_.fragments = fragments_.data();
  first_.rows = rows_.data();
  first_.largest = reinterpret_cast<const float*>(largest_.data());
  if (n_books == 0) return;
  VORONOI_CUDA_CHECK(
      cudaMemsetAsync(largest_.data(), 0, static_cast<std::size_t>(n_books) * sizeof(int), native.stream));
  launch(native, lay_out, grid_of(n_groups, n_books), dim3(kThreads), 0, first_.dim, first_.k, steps, halves,
         static_cast<int>(tail), centroids, fragments_.data(), rows_.data(), largest_.data());
}

}  // namespace voronoi::kernels::gpu
