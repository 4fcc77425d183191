// Round to nearest: every weight to the nearest point of its group's grid. The Hessian takes no part but in the
// reported error. Runs on the host whatever the device is, but for that error.
#pragma once

#include "quant/method.h"

namespace voronoi::quant {

const Method& rtn_method();

}  // namespace voronoi::quant
