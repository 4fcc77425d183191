// A linear in trellis codes between two rotations (QTIP: Tseng, Sun, Hou, De Sa, NeurIPS 2024, arXiv 2406.11235): its
// decoding, products straight from the codes, and the search of codes. Device memory throughout, unless told.
//
// A sequence of weights is a circular string of `bits` bits a weight. Weight t is what a code makes of its state, the
// window of state_bits bits that ends with the weight's own: neighbours share all but `bits` of them, so that a path
// through a graph of 2^state_bits states is what is chosen, and there is neither a codebook nor a first state to store.
// Here a sequence is a tile of rows in one column: whatever its error, all its weights feel it alike, and no two of
// them are correlated through the Hessian. (The authors' tiles are 16 x 16.)
#pragma once

#include <cstdint>

#include "core/types.h"
#include "kernels/exec.h"
#include "kernels/rotation.h"

namespace voronoi::kernels {

/// What a state s stands for, all arithmetic modulo 2^32 (authors' 3INST; mcg and mul1 are EXL3's):
///   mul1         the bytes of 0x83DCD12D s, added, times 0x1EEE, less 10.3828: of a normal distribution of variance 1
///   mcg          the halves of 0xCBAC1FED s, each a number of 16 bits once (. & 0x8FFF) ^ 0x3B60, added
///   three_inst   the same of 89226354 s + 64248484
enum class TrellisCode : std::int32_t { mul1, mcg, three_inst };
inline constexpr int kTrellisCodes = 3;
/// The root mean square over all states of 16 bits.
constexpr float trellis_rms(TrellisCode code) { return code == TrellisCode::mul1 ? 1.0F : 1.2437F; }

/// Rows whose bits make whole words of 16 in a column, whatever their number a weight: tiles are so many or a multiple.
inline constexpr std::int64_t kTrellisUnit = 16;
/// Most rows of a tile.
inline constexpr std::int64_t kTrellisTile = 256;
inline constexpr int kMostTrellisBits = 5, kLeastStateBits = 12, kMostStateBits = 16;
/// State bits that the search wants: vectors of 32 states that differ neither in the first nor in the last `bits`.
constexpr int least_state_bits(int bits) { return 5 + 2 * bits > kLeastStateBits ? 5 + 2 * bits : kLeastStateBits; }

/// Units of n rows, and tiles of so many units.
constexpr std::int64_t trellis_units(std::int64_t rows) { return (rows + kTrellisUnit - 1) / kTrellisUnit; }
/// The fewest tiles; one more where their number would be odd and they keep 8 units, so that two threads have as
/// much to do. (Shorter strings cost: at 2 bits tiles of 96 rows 4 % more error than those of 256, of 144 one.)
constexpr std::int64_t trellis_tiles(std::int64_t units) {
  const std::int64_t most = kTrellisTile / kTrellisUnit, n = (units + most - 1) / most;
  return n % 2 != 0 && units / (n + 1) >= 8 ? n + 1 : n;
}
/// The first unit of a tile, as equal as can be: of tile `trellis_tiles(units)` the end.
constexpr std::int64_t first_unit(std::int64_t units, std::int64_t tile) { return units * tile / trellis_tiles(units); }
/// The tile of a unit.
constexpr std::int64_t tile_of(std::int64_t units, std::int64_t unit) {
  return (trellis_tiles(units) * (unit + 1) - 1) / units;
}

/// W = out^T Q in, times the factors of its sides; Q [out, in] = scale * (values of the states).
struct PackedTrellis {
  std::int64_t out_features = 0, in_features = 0;
  core::DType dtype = core::DType::f16;  ///< that decode_16 rounds to: f16 or bf16
  float scale = 0;
  int bits = 2, state_bits = kMostStateBits;
  TrellisCode code = TrellisCode::mul1;
  /// [trellis_units(out), in, bits]: the strings, 16 rows of a column after another, the first bit the highest of its
  /// word. Rows past the last fill up the last unit.
  const std::uint16_t* codes = nullptr;
  Rotation in, out;  ///< of n = 0: none
  SideFactors factors;
};

inline constexpr std::int64_t kMaxTrellisTokens = 16;

struct TrellisSearch {
  int bits = 2, state_bits = kMostStateBits;
  TrellisCode code = TrellisCode::mul1;
  /// The string is searched with the bits held that pass from its end to its start, or, where it begins in the middle
  /// of the tile, to its second half.
  bool from_middle = false;
  /// Those bits are the ones that `symbols` has; else a search of the weights around them, free at both ends, finds
  /// them.
  bool keep_seam = false;
};

struct TrellisKernels {
  /// weight [out, in] row-major, the same bits on every device.
  void (*decode_f32)(const Exec&, const PackedTrellis&, float* weight);
  /// The same rounded to dtype.
  void (*decode_16)(const Exec&, const PackedTrellis&, std::uint16_t* weight);
  /// out [n_tokens, out] = x [n_tokens, in] W^T (+ out when accumulate), 1 <= n_tokens <= kMaxTrellisTokens: the tokens
  /// are turned, multiplied by the codes, and turned back. fp32, sums in a fixed order.
  void (*fused_matmul)(const Exec&, const PackedTrellis&, std::int64_t n_tokens, const float* x, bool accumulate,
                       float* out);
  /// Viterbi's algorithm (A. J. Viterbi, Error bounds for convolutional codes, 1967) for tiles 0 .. n_tiles - 1 of a
  /// column: the rows begin[tile] .. begin[tile + 1], multiples of kTrellisUnit, host memory. target [n_rows] finite,
  /// in units of the code; rows from n_rows on may become anything. symbols [begin[n_tiles]]: the lowest `bits` bits of
  /// each state, which are those that the row has of the string; value [begin[n_tiles]] what they decode to.
  ///
  /// Costs are whole numbers of 16 bits (a unit of variance is 2^11, 2^13, 2^15 of them up to 3, at 4, at 5 bits) that
  /// saturate, targets beyond 4 standard deviations of the code count as 4: the same choice on every device, of equal
  /// costs the predecessor of the least number.
  void (*search)(const Exec&, const TrellisSearch&, std::int64_t n_tiles, const std::int32_t* begin,
                 std::int64_t n_rows, const float* target, std::uint8_t* symbols, float* value);
};

// What the twins of the search agree on.
namespace trellis {

/// Of a difference of 1 standard deviation of the code.
inline constexpr float kLevel = 8192.0F;
/// Levels of values and targets end here.
inline constexpr float kMostLevel = 32767.0F;
/// Lead of the search for a seam: so many weights on each side of it.
inline constexpr std::int64_t kSeamLead = 64;
/// The least cost is taken off all every so many weights, from where every state can have been reached.
inline constexpr std::int64_t kRebase = 8, kFirstRebase = 16;
/// Differences are doubled so often, and saturate, before a cost is made of them: (d^2 + 2^14) >> 15.
constexpr int level_shift(int bits) { return bits <= 3 ? 0 : bits - 3; }

}  // namespace trellis

// Host memory.

/// What a state stands for.
float trellis_value(TrellisCode code, std::uint32_t state);
/// `symbols` [16 units, n] of n columns one beside another, as PackedTrellis::codes has them: [units, n, bits].
void pack_trellis(int bits, std::int64_t units, std::int64_t n, const std::uint8_t* symbols, std::uint16_t* codes);

}  // namespace voronoi::kernels
