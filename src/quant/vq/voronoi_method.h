// Our own method, to the rest of the program (quant/vq/voronoi.h).
#pragma once

#include "quant/method.h"

namespace voronoi::quant {

const Method& voronoi_method();

}  // namespace voronoi::quant
