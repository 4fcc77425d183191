#include "calib/weight_limit.h"

#include <bit>
#include <iterator>

namespace voronoi::calib {
namespace {

constexpr int kShift = 22;

float lower_edge(std::size_t bin) { return std::bit_cast<float>(static_cast<std::uint32_t>(bin) << kShift); }

double middle(std::size_t bin) {
  return static_cast<double>(
      std::bit_cast<float>((static_cast<std::uint32_t>(bin) << kShift) | (std::uint32_t{1} << (kShift - 1))));
}

}  // namespace

void WeightCounts::add(std::span<const float> weights) {
  for (const float weight : weights)
    if (weight > 0) ++counts_[std::bit_cast<std::uint32_t>(weight) >> kShift];
  rows_ += std::ssize(weights);
}

void WeightCounts::add(const WeightCounts& others) {
  for (std::size_t bin = 0; bin < kBins; ++bin) counts_[bin] += others.counts_[bin];
  rows_ += others.rows_;
}

WeightLimit WeightCounts::limit(double wanted) const {
  double sum = 0, squares = 0, rows = 0;
  for (std::size_t bin = 0; bin < kBins; ++bin) {
    if (counts_[bin] == 0) continue;  // the last bins are of no numbers
    const auto count = static_cast<double>(counts_[bin]);
    sum += count * middle(bin);
    squares += count * middle(bin) * middle(bin);
    rows += count;
  }
  if (rows < wanted || sum * sum >= wanted * squares) return {};
  double below = sum, above = 0;  // the sum of the lighter, the number of the others
  for (std::size_t bin = kBins; bin-- > 0;) {
    if (const auto count = static_cast<double>(counts_[bin]); count > 0) {
      below -= count * middle(bin);
      squares -= count * middle(bin) * middle(bin);
      above += count;
    }
    if (above == 0) continue;
    const auto edge = static_cast<double>(lower_edge(bin));
    const double limited = below + above * edge;
    if (limited * limited >= wanted * (squares + above * edge * edge))
      return {lower_edge(bin), static_cast<float>(sum / limited)};
  }
  return {};
}

double wanted_rows(std::int64_t n, std::int64_t rows) {
  constexpr double kRowsAnInput = 4, kShare = 1.0 / 8;
  return std::min(kRowsAnInput * static_cast<double>(n), kShare * static_cast<double>(rows));
}

}  // namespace voronoi::calib
