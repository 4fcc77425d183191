#include "quant/soundness.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/error.h"
#include "core/types.h"
#include "format/format.h"

namespace voronoi::quant {
namespace {

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
  if (const std::string problem = format::find_problem(result.encoding); !problem.empty()) refuse(problem);
  if (!std::isfinite(result.relative_error)) refuse("the relative Hessian error is not finite");
  for (const auto& [name, value] : result.statistics)
    if (!std::isfinite(value)) refuse("the figure " + name + " is not finite");
  // Decoding costs time; next to no encoding comes near the bound.
  const format::Encoding& encoding = result.encoding;
  if (encoding.format->decoded_bound(encoding) <= static_cast<double>(kLargestWeight)) return;
  std::vector<float> weight(static_cast<std::size_t>(encoding.out_features * encoding.in_features));
  format::decode(encoding, weight);
  if (const std::size_t bad = find_unsound(weight); bad != weight.size())
    refuse("weight " + place_of(bad, encoding.in_features) + " decodes to " + std::to_string(weight[bad]) +
           ", above 65504 (the range of F16)");
}

}  // namespace voronoi::quant
