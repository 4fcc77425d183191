#include "calib/hessian_tree.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "core/error.h"

namespace voronoi::calib {
namespace {

std::vector<float> divided(std::span<const double> sums, std::int64_t n_tokens) {
  const auto tokens = static_cast<double>(std::max<std::int64_t>(n_tokens, 1));
  std::vector<float> mean(sums.size());
  std::transform(sums.begin(), sums.end(), mean.begin(),
                 [tokens](double value) { return static_cast<float>(value / tokens); });
  return mean;
}

}  // namespace

void HessianTree::add_chunk(std::int64_t chunk, const backend::Array<double>& sum, std::int64_t n_tokens,
                            std::int64_t n_left_out, const RowWeights& weights) {
  VORONOI_REQUIRE(sum.size() == n_ * n_, "a full matrix is wanted");
  backend::Array<double> lower = room();
  context().linalg().pack_lower_f64(context().exec(), n_, sum.data(), lower.data());
  const std::array<double, kWeightValues> counted{weights.sum, weights.squares};
  context().memory().copy_from_host(context().exec(), counted.data(), sizeof counted, lower.data() + packed_size(n_));
  add(chunk, std::move(lower), {n_tokens, n_left_out});
}

std::vector<float> HessianTree::mean() {
  const backend::Array<double> sum = total();
  const backend::HostView<double> values(context(), sum.data(), packed_size(n_));
  return divided(values.values(), n_tokens());
}

RowWeights HessianTree::weights() {
  const backend::Array<double> sum = total();
  const backend::HostView<double> values(context(), sum.data() + packed_size(n_), kWeightValues);
  return {values.values()[0], values.values()[1]};
}

void CrossTree::add_chunk(std::int64_t chunk, const backend::Array<double>& sum) {
  backend::Array<double> matrix = room();
  context().memory().copy_on_device(context().exec(), sum.data(), sum.size() * std::int64_t{sizeof(double)},
                                    matrix.data());
  add(chunk, std::move(matrix));
}

std::vector<float> CrossTree::mean(std::int64_t n_tokens) {
  if (n_nodes() == 0) return {};
  const backend::Array<double> sum = total();
  return divided(backend::HostView<double>(context(), sum.data(), sum.size()).values(), n_tokens);
}

}  // namespace voronoi::calib
