// A linear packed in uniform codes: its decoding, and products straight from the codes. Device memory throughout.
#pragma once

#include <cstdint>

#include "kernels/scalar_codes.h"

namespace voronoi::kernels {

/// A quantized linear in device memory, arrays as format::UniformEncoding lays them out. A group has one scale, the
/// step of a code is code[r, j] - zero[r, g].
struct PackedUniform : PackedScalars {
  const std::uint32_t* zeros = nullptr;  ///< [out, packed_words(n_groups, bits)]; a code and a zero have 1..16 bits
};

using UniformKernels = ScalarKernels<PackedUniform>;

}  // namespace voronoi::kernels
