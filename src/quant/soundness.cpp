#include "quant/soundness.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/error.h"
#include "core/types.h"

namespace voronoi::quant {
namespace {

/// Largest magnitude of 16-bit numbers.
double largest(core::DType dtype, const std::vector<std::uint16_t>& bits) {
  std::uint16_t most = 0;  // magnitudes order like their bits
  for (const std::uint16_t value : bits) most = std::max(most, static_cast<std::uint16_t>(value & 0x7FFFU));
  return static_cast<double>(core::from_bits16(dtype, most));
}

/// No decoded weight is above it.
double decoded_bound(const VqEncoding& e) {
  const double vectors = std::max(largest(e.dtype, e.codebook) + largest(e.dtype, e.residual_codebook),
                                  largest(e.dtype, e.outlier_codebook));
  return vectors * largest(e.dtype, e.scale) + largest(e.dtype, e.bias);
}

double decoded_bound(const UniformEncoding& e) {
  return largest(e.dtype, e.scale) * static_cast<double>((std::int64_t{1} << e.bits) - 1);
}

[[noreturn]] void refuse(const std::string& what) {
  throw core::NumericError(what +
                           "; the layer has outliers that its encoding cannot hold: more bits or centroids, "
                           "outlier columns (--outlier-percent) or more damping may help");
}

std::string place_of(std::size_t i, std::int64_t in_features) {
  const auto at = static_cast<std::int64_t>(i);
  return "[" + std::to_string(at / in_features) + ", " + std::to_string(at % in_features) + "]";
}

/// The first value that is not finite or above kLargestWeight; the size when there is none.
std::size_t find_unsound(std::span<const float> values) {
  // No early exit: the loop is vectorised, and there is nearly never one to be found.
  bool sound = true;
  for (const float value : values) sound &= std::fabs(value) <= kLargestWeight;
  if (sound) return values.size();
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float value) { return !(std::fabs(value) <= kLargestWeight); });
  return static_cast<std::size_t>(bad - values.begin());
}

}  // namespace

void require_sound_weight(const QuantInput& input) {
  const std::size_t bad = find_unsound(input.weight);
  if (bad == input.weight.size()) return;
  throw core::NumericError("weight " + place_of(bad, input.in_features) + " is " + std::to_string(input.weight[bad]) +
                           "; a finite value of magnitude at most 65504 (the range of F16) is wanted: the model is "
                           "damaged or cannot be stored in 16 bits");
}

void require_sound_result(const QuantResult& result) {
  if (const std::string problem = find_problem(result.encoding); !problem.empty()) refuse(problem);
  if (!std::isfinite(result.relative_error)) refuse("the relative Hessian error is not finite");
  for (const auto& [name, value] : result.statistics)
    if (!std::isfinite(value)) refuse("the figure " + name + " is not finite");
  // Decoding costs time; next to no encoding comes near the bound.
  if (std::visit([](const auto& e) { return decoded_bound(e); }, result.encoding) <=
      static_cast<double>(kLargestWeight))
    return;
  std::vector<float> weight(static_cast<std::size_t>(out_features(result.encoding) * in_features(result.encoding)));
  decode(result.encoding, weight);
  if (const std::size_t bad = find_unsound(weight); bad != weight.size())
    refuse("weight " + place_of(bad, in_features(result.encoding)) + " decodes to " + std::to_string(weight[bad]) +
           ", above 65504 (the range of F16)");
}

}  // namespace voronoi::quant
