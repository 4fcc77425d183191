// The largest weight a row may have in a guided Hessian: where a few rows own it, it says nothing of the others.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

namespace voronoi::calib {

/// What is cut off is spread over all: the sum of the weights tells linears apart.
struct WeightLimit {
  float most = std::numeric_limits<float>::infinity();
  float scale = 1;
  float of(float weight) const { return scale * std::min(weight, most); }
};

/// How many of a linear's rows have which weight, to half an octave. Sums of it do not depend on their order.
class WeightCounts {
 public:
  /// By the exponent of a float and the first bit behind it.
  static constexpr std::size_t kBins = 512;

  /// Weights are not negative; those that are 0 are rows alone.
  void add(std::span<const float> weights);
  void add(const WeightCounts& others);
  std::int64_t rows() const { return rows_; }

  /// The largest limit at which the rows, heavier ones counting as much as it, are worth `wanted` equal ones by
  /// (sum s)^2 / sum s^2, to half an octave. None where they are without one, or where there are fewer rows.
  WeightLimit limit(double wanted) const;

 private:
  std::array<std::int32_t, kBins> counts_{};
  std::int64_t rows_ = 0;
};

/// Rows that a linear of n inputs wants of `rows`: four an input, as GuidedQuant's moments were found to need, but no
/// more than an eighth of all, since the differences between tokens are what is asked for.
double wanted_rows(std::int64_t n, std::int64_t rows);

}  // namespace voronoi::calib
