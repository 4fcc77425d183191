// The layout of AutoAWQ ("gemm"), which transformers and vLLM load: 4 bits, columns of a group are neighbours.
//
// Tensors (after the module path): .qweight I32 [in, out / 8], .qzeros I32 [n_groups, out / 8]: of eight rows, row
// kOrder[i] has bits 4i .. 4i + 3; .scales [n_groups, out]. One setting for all linears.
#pragma once

#include "export/layout.h"

namespace voronoi::exporting {

const Layout& awq_layout();

}  // namespace voronoi::exporting
