// The layout of AutoGPTQ and GPTQModel, which transformers and vLLM load.
//
// Tensors (after the module path): .qweight I32 [in bits / 32, out] and .qzeros I32 [n_groups, out bits / 32], a stream
// of bits down the columns and along the rows; .scales [n_groups, out]; .g_idx I32 [in], the group of each column.
// In "checkpoint_format" gptq a zero is stored less one, in gptq_v2 as it is. One setting for all linears. As GPTQModel
// reads it.
#pragma once

#include "export/layout.h"

namespace voronoi::exporting {

const Layout& gptq_layout();

}  // namespace voronoi::exporting
