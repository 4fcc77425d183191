#include "quant/quantizer.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/index.h"

namespace voronoi::quant {

using core::index;

namespace {

constexpr double kRoundedError = 1e-4;  // of the energy: an error below zero by no more is rounding

}  // namespace

HessianEnergies hessian_energies(backend::Context& context, std::int64_t out_features, std::int64_t in_features,
                                 std::span<const float> weight, std::span<const float> quantized,
                                 const backend::Array<float>& h) {
  const auto n_weights = core::checked_multiply(out_features, in_features);
  VORONOI_REQUIRE(
      n_weights && static_cast<std::int64_t>(weight.size()) == *n_weights && quantized.size() == weight.size(),
      "both weights are [out_features, in_features]");
  VORONOI_REQUIRE(h.size() == in_features * in_features, "the Hessian is [in_features, in_features]");
  const auto size_bytes = [](std::int64_t n) { return n * std::int64_t{sizeof(float)}; };
  // A tile holds W - Q above W, so that one product serves both traces.
  backend::Array<float> tile(context, 2 * kErrorRows * in_features), product(context, 2 * kErrorRows * in_features);
  std::vector<float> values(index(2 * kErrorRows * in_features)), image(values.size());
  std::vector<double> row_sums(index(2 * kErrorRows));
  HessianEnergies energies;
  for (std::int64_t first = 0; first < out_features; first += kErrorRows) {
    const std::int64_t rows = std::min(kErrorRows, out_features - first), n = rows * in_features;
    const float* w = weight.data() + first * in_features;
    const float* q = quantized.data() + first * in_features;
    for (std::int64_t i = 0; i < n; ++i) values[index(i)] = w[i] - q[i];
    std::copy_n(w, n, values.begin() + n);
    context.memory().copy_from_host(context.exec(), values.data(), size_bytes(2 * n), tile.data());
    context.linalg().gemm_f32(context.exec(), false, false, 2 * rows, in_features, in_features, 1.0F, tile.data(),
                              in_features, h.data(), in_features, 0.0F, product.data(), in_features);
    context.memory().copy_to_host(context.exec(), product.data(), size_bytes(2 * n), image.data());
    context.pool().parallel_for(2 * rows, [&](std::int64_t row) {
      double sum = 0;
      for (std::int64_t i = row * in_features; i < (row + 1) * in_features; ++i)
        sum += static_cast<double>(values[index(i)]) * static_cast<double>(image[index(i)]);
      row_sums[index(row)] = sum;
    });
    for (std::int64_t row = 0; row < rows; ++row) {
      energies.error += row_sums[index(row)];
      energies.energy += row_sums[index(rows + row)];
    }
  }
  return energies;
}

double relative_hessian_error(backend::Context& context, std::int64_t out_features, std::int64_t in_features,
                              std::span<const float> weight, std::span<const float> quantized,
                              const backend::Array<float>& h) {
  const HessianEnergies energies = hessian_energies(context, out_features, in_features, weight, quantized, h);
  return relative_error_of(energies.error, energies.energy);
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
