// A linear packed in codes of a table of levels, with a scale for those above 0 and another for those below: its
// decoding, and products straight from the codes. Device memory throughout.
#pragma once

#include "kernels/scalar_codes.h"

namespace voronoi::kernels {

/// A quantized linear in device memory, arrays as format::SignedLevelsEncoding lays them out. A group has two scales:
/// the step of a code is levels[code], and takes the first where it is not negative, else the second.
struct PackedSignedLevels : PackedScalars {
  const float* levels = nullptr;  ///< [2^bits]; bits 1..16
};

using SignedLevelsKernels = ScalarKernels<PackedSignedLevels>;

}  // namespace voronoi::kernels
