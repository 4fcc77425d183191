#include "calib/hessian_tree.h"

#include <array>
#include <utility>

#include "core/error.h"

namespace voronoi::calib {
void HessianTree::add_chunk(std::int64_t chunk, backend::Array<double> sum, std::int64_t n_tokens,
                            std::int64_t n_left_out, const RowWeights& weights) {
  VORONOI_REQUIRE(sum.size() == n_values(), "a triangle with its sums of weights is wanted");
  const std::array<double, kWeightValues> counted{weights.sum, weights.squares};
  context().memory().copy_from_host(context().exec(), counted.data(), sizeof counted, sum.data() + packed_size(n_));
  add(chunk, std::move(sum), {n_tokens, n_left_out});
}

RowWeights HessianTree::weights(std::span<const double> behind) {
  VORONOI_REQUIRE(behind.size() == kWeightValues, "sums of weights are wanted");
  return {behind[0], behind[1]};
}

}  // namespace voronoi::calib
