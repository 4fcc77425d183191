// Round to nearest: every weight to the nearest point of its group's grid. The Hessian takes no part but in the
// reported error. Runs on the host whatever the device is, but for that error.
#pragma once

#include "quant/quantizer.h"

namespace voronoi::quant {

const Quantizer& rtn_quantizer();

}  // namespace voronoi::quant
