#include "quant/quantizer.h"

#include <algorithm>
#include <string>

#include "core/bytes.h"
#include "core/error.h"
#include "core/index.h"
#include "core/team.h"
#include "core/types.h"
#include "quant/row_energies.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr double kRoundedError = 1e-4;  // of the energy: an error below zero by no more is rounding

}  // namespace

std::vector<HessianRows> hessian_rows(const QuantInput& input) {
  std::vector<HessianRows> ranges{{0, input.out_features, input.hessian}};
  for (const RowGroup& group : input.later_groups) {
    VORONOI_REQUIRE(group.first_row > ranges.back().first && group.first_row < input.out_features,
                    "groups of rows are in order, each with a row");
    ranges.back().last = group.first_row;
    ranges.push_back({group.first_row, input.out_features, group.hessian});
  }
  return ranges;
}

HessianEnergies hessian_energies(backend::Context& context, core::Team& team, std::int64_t out_features,
                                 std::int64_t in_features, std::span<const float> weight,
                                 std::span<const float> quantized, const backend::Array<float>& h) {
  const auto n_weights = core::checked_multiply(out_features, in_features);
  VORONOI_REQUIRE(
      n_weights && static_cast<std::int64_t>(weight.size()) == *n_weights && quantized.size() == weight.size(),
      "both weights are [out_features, in_features]");
  // A tile holds W - Q above W, so that one product serves both traces. A member has a run of the tiles.
  const std::int64_t tiles = core::ceil_div(out_features, kErrorRows), begin = tiles * team.rank() / team.size(),
                     end = tiles * (team.rank() + 1) / team.size();
  std::vector<HessianEnergies> own;  // of each row
  if (begin < end) {
    RowEnergies tile(context, 2 * kErrorRows, in_features, h);
    std::vector<float> values;
    for (std::int64_t first = begin * kErrorRows; first < std::min(end * kErrorRows, out_features);
         first += kErrorRows) {
      const std::int64_t rows = std::min(kErrorRows, out_features - first), n = rows * in_features;
      const float* w = weight.data() + first * in_features;
      const float* q = quantized.data() + first * in_features;
      values.resize(index(2 * n));
      for (std::int64_t i = 0; i < n; ++i) values[index(i)] = w[i] - q[i];
      std::copy_n(w, n, values.begin() + n);
      const std::span<const double> sums = tile.of(values);
      for (std::int64_t row = 0; row < rows; ++row) own.push_back({sums[index(row)], sums[index(rows + row)]});
    }
  }
  std::vector<HessianEnergies> rows;
  for (const std::vector<std::byte>& theirs : team.all_gather(std::as_bytes(std::span<const HessianEnergies>(own))))
    core::append_values(theirs, rows);
  HessianEnergies energies;
  for (const HessianEnergies& row : rows) {
    energies.error += row.error;
    energies.energy += row.energy;
  }
  return energies;
}

HessianEnergies hessian_energies(backend::Context& context, std::int64_t out_features, std::int64_t in_features,
                                 std::span<const float> weight, std::span<const float> quantized,
                                 const backend::Array<float>& h) {
  core::SoloTeam alone;
  return hessian_energies(context, alone, out_features, in_features, weight, quantized, h);
}

double relative_hessian_error(backend::Context& context, core::Team& team, std::int64_t out_features,
                              std::int64_t in_features, std::span<const float> weight, std::span<const float> quantized,
                              const backend::Array<float>& h) {
  const HessianEnergies energies = hessian_energies(context, team, out_features, in_features, weight, quantized, h);
  return relative_error_of(energies.error, energies.energy);
}

double relative_hessian_error(backend::Context& context, std::int64_t out_features, std::int64_t in_features,
                              std::span<const float> weight, std::span<const float> quantized,
                              const backend::Array<float>& h) {
  core::SoloTeam alone;
  return relative_hessian_error(context, alone, out_features, in_features, weight, quantized, h);
}

double relative_error_of(double error, double energy) {
  if (!(energy > 0)) return 0;
  if (error < -kRoundedError * energy)
    throw core::NumericError("the error tr((W-Q) H (W-Q)^T) is " + std::to_string(error / energy) +
                             " of tr(W H W^T): the Hessian is not positive semidefinite; raise --damping, or calibrate "
                             "again with more text");
  return std::max(error, 0.0) / energy;
}

}  // namespace voronoi::quant
