#include "kernels/cuda/part_sums.cuh"

namespace voronoi::kernels::gpu {
namespace {

__global__ void add_in_order(std::int64_t n_parts, std::int64_t size, const double* __restrict__ parts,
                             double* __restrict__ sums) {
  for (std::int64_t i = global_thread(); i < size; i += global_threads()) {
    double sum = 0;
    for (std::int64_t part = 0; part < n_parts; ++part) sum += parts[part * size + i];
    sums[i] = sum;
  }
}

/// Thread i writes the segments that begin between key i - 1 and key i.
__global__ void mark_segments(std::int64_t n, const std::uint32_t* __restrict__ sorted_keys, std::int64_t n_segments,
                              std::int32_t* __restrict__ first) {
  for (std::int64_t i = global_thread(); i <= n; i += global_threads()) {
    const std::int64_t from = i > 0 ? static_cast<std::int64_t>(sorted_keys[i - 1]) + 1 : 0;
    const std::int64_t to = i < n ? static_cast<std::int64_t>(sorted_keys[i]) : n_segments;
    for (std::int64_t segment = from; segment <= to; ++segment) first[segment] = static_cast<std::int32_t>(i);
  }
}

}  // namespace

void add_parts(Native& native, std::int64_t n_parts, std::int64_t size, const double* parts, double* sums) {
  launch(native, add_in_order, grid_for(native, size, kSumThreads), dim3(kSumThreads), 0, n_parts, size, parts, sums);
}

void find_segments(Native& native, std::int64_t n, const std::uint32_t* sorted_keys, std::int64_t n_segments,
                   std::int32_t* first) {
  launch(native, mark_segments, grid_for(native, n + 1, kSumThreads), dim3(kSumThreads), 0, n, sorted_keys, n_segments,
         first);
}

}  // namespace voronoi::kernels::gpu
