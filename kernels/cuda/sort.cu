#include <cub/device/device_radix_sort.cuh>

#include "kernels/cuda/device_ops.cuh"
#include "kernels/cuda/sort.h"

namespace voronoi::kernels::gpu {
namespace {

__global__ void number(std::int64_t n, std::int32_t* places) {
  for (std::int64_t i = global_thread(); i < n; i += global_threads()) places[i] = static_cast<std::int32_t>(i);
}

}  // namespace

void sort_pairs(Native& native, std::int64_t n, int key_bits, const std::uint32_t* keys, std::uint32_t* sorted_keys,
                std::int32_t* order) {
  VORONOI_REQUIRE(n < std::int64_t{1} << 31, "a sort of more than 2^31 keys");
  if (n == 0) return;
  constexpr int kThreads = 256;
  const Scratch<std::int32_t> places(native, n);
  launch(native, number, grid_for(native, n, kThreads), dim3(kThreads), 0, n, places.data());
  std::size_t bytes = 0;
  const auto sort = [&](void* workspace) {
    VORONOI_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(workspace, bytes, keys, sorted_keys, places.data(), order,
                                                       static_cast<int>(n), 0, key_bits, native.stream));
  };
  sort(nullptr);
  const Scratch<unsigned char> workspace(native, static_cast<std::int64_t>(bytes));
  sort(workspace.data());
}

}  // namespace voronoi::kernels::gpu
