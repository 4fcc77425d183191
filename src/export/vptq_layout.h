// VPTQ's public format as a layout (export/layer_format.h has its tensors and entries).
#pragma once

#include "export/layout.h"

namespace voronoi::exporting {

const Layout& vptq_layout();

}  // namespace voronoi::exporting
