// Moving the codes of a linear that has a code a weight. Host memory throughout.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "core/packing.h"
#include "core/types.h"
#include "format/recoding.h"
#include "kernels/scalar_codes.h"

namespace voronoi::format {

/// A code and the weight it stands for.
struct NearestCode {
  std::uint32_t code = 0;
  float value = 0;  ///< not a number: there is none
};

/// The factor of a natural column.
inline float column_factor(const kernels::PackedScalars& packed, std::int64_t column) {
  return packed.column_scale == nullptr ? 1.0F : core::from_bits16(packed.dtype, packed.column_scale[column]);
}

/// As TunedMatrix::recode. decoded, target: [out, in]; codes: those of `packed`. nearest.start_row(row) comes before
/// nearest.find(g, factor, target): of the row's group g, in a column of that factor.
template <class Nearest>
std::int64_t recode_scalars(const kernels::PackedScalars& packed, std::vector<float> decoded, const float* target,
                            double share, Nearest nearest, std::vector<std::uint32_t>& codes) {
  const std::int64_t n = packed.in_features;
  for (std::size_t i = 0; i < decoded.size(); ++i) decoded[i] = std::fabs(decoded[i] - target[i]);
  const std::vector<float>& distances = decoded;
  const std::vector<std::int64_t> chosen = farthest(distances, share);
  std::vector<std::int64_t> place(at(n));  // natural column -> stored column
  for (std::int64_t stored = 0; stored < n; ++stored)
    place[packed.perm == nullptr ? at(stored) : packed.perm[stored]] = stored;
  const std::int64_t words = core::packed_words(n, packed.bits);
  std::vector<std::uint32_t> of_row(at(n));
  std::int64_t n_changed = 0;
  for (auto next = chosen.begin(); next != chosen.end();) {
    const std::int64_t row = *next / n;
    const std::span<std::uint32_t> stored_row(codes.data() + row * words, at(words));
    core::unpack_row(stored_row, packed.bits, of_row);
    nearest.start_row(row);
    for (; next != chosen.end() && *next / n == row; ++next) {
      const std::int64_t column = *next % n, stored = place[at(column)];
      const NearestCode found = nearest.find(stored / packed.group_size, column_factor(packed, column), target[*next]);
      if (!(std::fabs(found.value - target[*next]) < distances[at(*next)])) continue;
      of_row[at(stored)] = found.code;
      ++n_changed;
    }
    core::pack_row(of_row, packed.bits, stored_row);
  }
  return n_changed;
}

}  // namespace voronoi::format
