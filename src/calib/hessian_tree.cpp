#include "calib/hessian_tree.h"

#include <array>
#include <utility>

#include "core/error.h"

namespace voronoi::calib {
void HessianTree::add_chunk(std::int64_t chunk, const backend::Array<double>& sum, std::int64_t n_tokens,
                            std::int64_t n_left_out, const RowWeights& weights) {
  VORONOI_REQUIRE(sum.size() == n_ * n_, "a full matrix is wanted");
  backend::Array<double> lower = room();
  context().linalg().pack_lower_f64(context().exec(), n_, sum.data(), lower.data());
  const std::array<double, kWeightValues> counted{weights.sum, weights.squares};
  context().memory().copy_from_host(context().exec(), counted.data(), sizeof counted, lower.data() + packed_size(n_));
  add(chunk, std::move(lower), {n_tokens, n_left_out});
}

RowWeights HessianTree::weights(std::span<const double> behind) {
  VORONOI_REQUIRE(behind.size() == kWeightValues, "sums of weights are wanted");
  return {behind[0], behind[1]};
}

void CrossTree::add_chunk(std::int64_t chunk, const backend::Array<double>& sum) {
  backend::Array<double> matrix = room();
  context().memory().copy_on_device(context().exec(), sum.data(), sum.size() * std::int64_t{sizeof(double)},
                                    matrix.data());
  add(chunk, std::move(matrix));
}

}  // namespace voronoi::calib
