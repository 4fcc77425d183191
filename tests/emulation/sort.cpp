// kernels/cuda/sort.h over the standard library: stands for CUB.
#include "kernels/cuda/sort.h"

#include <algorithm>
#include <numeric>

#include "tests/emulation/emulator.h"
#include "tests/emulation/memory.h"

namespace voronoi::kernels::gpu {

void sort_pairs(Native& native, std::int64_t n, int key_bits, const std::uint32_t* keys, std::uint32_t* sorted_keys,
                std::int32_t* order) {
  emulation::finish_pending(native.stream);
  const emulation::AccessWindow window;
  const std::uint32_t mask = key_bits >= 32 ? ~0U : (1U << key_bits) - 1;
  std::iota(order, order + n, 0);
  std::stable_sort(order, order + n,
                   [&](std::int32_t a, std::int32_t b) { return (keys[a] & mask) < (keys[b] & mask); });
  std::transform(order, order + n, sorted_keys, [&](std::int32_t i) { return keys[i]; });
}

}  // namespace voronoi::kernels::gpu
