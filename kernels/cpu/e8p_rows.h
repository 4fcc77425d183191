// Codewords of lattice codes side by side.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/e8p.h"

namespace voronoi::kernels::e8p {

/// Both codebooks as they are added up.
struct Tables {
  alignas(64) std::array<std::array<float, kDim>, kEntries> entries, e8;
  /// By the low byte of an E8P code.
  alignas(64) std::array<std::array<std::uint32_t, kDim>, kEntries> signs;
  std::array<float, kEntries> shift;
};
/// Lives as long as the program.
const Tables& tables();

/// The codewords at places first .. first + count - 1 of all codes, with their residuals': values [count, kDim] of
/// Q / scale. The same bits on any processor.
void decode_places(const PackedE8p& packed, std::int64_t first, std::int64_t count, float* values);

}  // namespace voronoi::kernels::e8p
