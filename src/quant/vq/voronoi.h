// Our own method inside VPTQ's format: its passes with main and residual chosen jointly, then rounds of codebook and
// column fits and of sweeps over the columns, each judged by the true error.
#pragma once

#include "quant/quantizer.h"

namespace voronoi::quant {

const Quantizer& voronoi_quantizer();

}  // namespace voronoi::quant
