// Nothing that is not a number goes into a method or comes out of one.
#pragma once

#include "quant/quantizer.h"

namespace voronoi::quant {

/// Throws NumericError naming the first weight that is not finite or above kLargestWeight.
void require_sound_weight(const QuantInput& input);

/// Throws NumericError when an array of the encoding holds what is not finite, when a decoded weight would be above
/// kLargestWeight, or a figure is not finite.
void require_sound_result(const QuantResult& result);

}  // namespace voronoi::quant
