// Our own method inside VPTQ's format: its passes with main and residual chosen jointly, then rounds of codebook and
// column fits and of sweeps over the columns, each judged by the true error.
#pragma once

#include "quant/quantizer.h"

namespace voronoi::quant {

struct VoronoiParameters {
  int rounds = 3;      ///< refit + sweep rounds
  int candidates = 8;  ///< main candidates in the joint residual search
};

QuantResult run_voronoi(backend::Context& context, core::Team& team, const QuantInput& input,
                        const QuantParameters& parameters);

}  // namespace voronoi::quant
