// Our own method, to the rest of the program (quant/vq/voronoi.h).
#pragma once

#include <cstdint>

#include "quant/cost.h"
#include "quant/method.h"

namespace voronoi::quant {

/// How often the loops of all rounds ran.
struct RefineSteps {
  double rounds = 0, fits = 0, sweeps = 0;  ///< fits: steps of both fits together
  bool is_judged = false;                   ///< by held-out tokens
};
/// Of an operator behind VPTQ's passes.
Work refine_work(const QuantParameters& parameters, std::int64_t out_features, std::int64_t in_features,
                 const RefineSteps& steps);

const Method& voronoi_method();

}  // namespace voronoi::quant
