// What the CPU twins of trellis codes share.
#pragma once

#include <cstdint>

#include "kernels/cpu/scratch.h"
#include "kernels/trellis.h"

namespace voronoi::kernels::trellis {

// Of TrellisCode::mul1: the factor of a state; what the sum of bytes, with kMul1Offset, is multiplied by, and what is
// added then (numbers of 16 bits, 0x1EEE and 0xC931).
inline constexpr std::uint32_t kMul1Factor = 0x83DCD12DU, kMul1Offset = 1024;
inline constexpr float kMul1Scale = 887.0F / 131072.0F, kMul1Shift = -10.3828125F;

/// trellis_value of all states of 16 bits; lives as long as the program.
const float* values_of(TrellisCode code);

/// A value or a target as the search sees it: by_level is kLevel over the code's root mean square.
std::int16_t level_of(float by_level, float value);

/// One pass of the search over weights first, first + 1 .. of a circle.
struct Pass {
  int bits = 0;
  std::int64_t n_edges = 0;               ///< 2^(state_bits - bits)
  const std::int16_t* levels = nullptr;   ///< of all states, in the order of the vectors
  const std::int16_t* zeros = nullptr;    ///< as many
  const std::int16_t* targets = nullptr;  ///< [n_valid]
  std::int64_t length = 0, n_valid = 0;   ///< of the circle; weights that count
  std::int64_t first = 0, count = 0;
  std::int64_t from = -1, to = -1;  ///< edges before the first and behind the last; -1: any
};

/// Of passes over up to kTrellisTile weights.
struct Workspace {
  Workspace(int bits, std::int64_t n_edges, std::int64_t most)
      : costs(2 * n_edges), marks(most * n_edges * ((1 << bits) - 1) / 8), edges(most) {}
  Scratch<std::uint16_t> costs;
  Scratch<std::uint8_t> marks;  ///< of each weight: n_edges times the matches of a tournament of 2^bits
  Scratch<std::int32_t> edges;  ///< behind each weight of the pass
};

/// TrellisKernels::search.
void search(const Exec& exec, const TrellisSearch& search, std::int64_t n_tiles, const std::int32_t* begin,
            std::int64_t n_rows, const float* target, std::uint8_t* symbols, float* value);

}  // namespace voronoi::kernels::trellis
