// Stable sort of keys with the places they came from, by CUB; the emulator of the tests defines it over the standard
// library.
#pragma once

#include <cstdint>

#include "kernels/cuda/native.h"

namespace voronoi::kernels::gpu {

/// sorted_keys [n] rises and order [n] is where each came from in keys [n], equal keys in order of place. Only the
/// lowest key_bits of a key count. n < 2^31.
void sort_pairs(Native& native, std::int64_t n, int key_bits, const std::uint32_t* keys, std::uint32_t* sorted_keys,
                std::int32_t* order);

}  // namespace voronoi::kernels::gpu
