#include "quant/cost.h"

namespace voronoi::quant {
namespace {

/// k-means steps until the relative rule stops them, as seen on real layers.
constexpr double kTypicalKmeansSteps = 40;
/// Products with H of a codebook refit by conjugate gradients.
constexpr double kTypicalRefitSteps = 12;

}  // namespace

double hessian_flops(std::int64_t n) {
  const auto order = static_cast<double>(n);
  return 2.0 * (2.0 / 3.0) * order * order * order;
}

double operator_flops(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features) {
  const auto rows = static_cast<double>(out_features), columns = static_cast<double>(in_features);
  const double feedback = rows * columns * columns;
  if (parameters.method == "rtn") return 10.0 * rows * columns;
  if (parameters.method == "gptq") return feedback + 10.0 * rows * columns;
  const auto centroids = static_cast<double>(parameters.centroids + parameters.residual_centroids);
  const double search = 2.0 * rows * columns * centroids;
  const double passes = parameters.residual_centroids > 0 ? 2.0 : 1.0;
  double flops = search * (kTypicalKmeansSteps + passes) + feedback * passes;
  if (parameters.method == "voronoi")
    flops += static_cast<double>(parameters.rounds) *
             (2.0 * feedback * (kTypicalRefitSteps + 1.0) + search * (parameters.residual_centroids > 0 ? 4.0 : 1.0));
  return flops;
}

}  // namespace voronoi::quant
