// Trellis codes for rows of a matrix in a metric: column by column with error feedback, then sweeps that search each
// column anew.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/device.h"
#include "core/team.h"
#include "quant/quantizer.h"

namespace voronoi::quant {

struct TrellisSettings {
  int bits = 2, state_bits = kernels::kMostStateBits;
  kernels::TrellisCode code = kernels::TrellisCode::mul1;
  int sweeps = 0;
};

/// Tiles of a team member, and their rows: whole tiles, since the weights of a tile in a column are one string.
struct TrellisPart {
  TrellisPart(std::int64_t out_features, int rank, int size);
  std::int64_t first_tile = 0, n_tiles = 0;
  std::int64_t first_unit = 0, n_units = 0;
  std::int64_t first_row = 0, n_rows = 0;
  std::vector<std::int32_t> begin;  ///< [n_tiles + 1], rows from first_row on
};

struct TrellisCodes {
  /// Everyone's, as format::TrellisEncoding has them.
  std::vector<std::uint16_t> codes;
  /// tr(E (H + added I) E^T) behind the feedback, and behind the sweeps that were kept.
  double error_before = 0, error_behind = 0;
  int sweeps_kept = 0;
};

/// weight [rows of `part`, n], in units of the code, on the host; `part` is that of the team's member. Collective:
/// every member returns the same.
///
/// Feedback as in gptq, in the Hessian's order of columns: the tiles of a column are searched for what it has become,
/// and its error is spread over the columns behind it. A column's weights feel an error alike and know nothing of each
/// other in the metric, so that what is searched is what is meant: no part of the error is left out, as it is within
/// blocks of columns. A sweep goes through the columns the other way: the target of column j is What_j + ((W - What)
/// (H + added I))_j / (H_jj + added), whose nearest string has the least error of all while the others stay; a tile
/// takes it where the error falls. The bits that pass the string's end are held, in turn at its start and its middle. A
/// sweep that does not lower the error by kLeastSweepGain, or not in the metric of held-out tokens where there is one,
/// is the last, and in the latter case undone.
TrellisCodes trellis_codes(backend::Context& context, core::Team& team, const PreparedHessian& hessian,
                           const TrellisSettings& settings, const TrellisPart& part, std::span<const float> weight);

inline constexpr double kLeastSweepGain = 3e-3;

/// In whose time a state is weighed, as centroids are: 2.3 us for 2^16 of them on a core.
inline constexpr double kStateFlops = 7;
/// Weights around a seam that are searched for what passes it.
inline constexpr std::int64_t kLeadWeights = 2 * kernels::trellis::kSeamLead;

}  // namespace voronoi::quant
