// The layout "pack-quantized" of the package compressed-tensors (LLM Compressor's), which transformers and vLLM load.
//
// Tensors (after the module path): .weight_packed I32 [out, in bits / 32]; .weight_scale [out, n_groups];
// .weight_zero_point I32 [out bits / 32, n_groups], packed down the rows; .weight_shape I64 [2]; .weight_g_idx I32 [in]
// where the columns of a group are no neighbours. Codes and zeros lie from the lowest bits of a word up. Only widths
// that divide a word: for others, versions of the package pack in two ways. As its version 0.14 reads it.
#pragma once

#include "export/layout.h"

namespace voronoi::exporting {

const Layout& compressed_tensors_layout();

}  // namespace voronoi::exporting
