// VPTQ as a method (quant/vq/vptq.h).
#pragma once

#include "quant/method.h"

namespace voronoi::quant {

const Method& vptq_method();

}  // namespace voronoi::quant
