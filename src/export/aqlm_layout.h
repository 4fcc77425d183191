// The layout of AQLM's checkpoints, as transformers loads it with the package `aqlm`.
//
// Tensors (after the module path): .codes I8 [out, in / g, M] up to 8 bits, I16 beyond, two's complement; .codebooks
// [M, 2^b, 1, g]; .scales [out, 1, 1, 1]. config.json has one setting for all linears: in_group_size g,
// out_group_size 1, num_codebooks M, nbits_per_codebook b; linear_weights_not_to_quantize names weights that stay. Read
// from transformers 4.57.1 (AqlmConfig, replace_with_aqlm_linear) and `aqlm` 1.1.7.
#pragma once

#include "export/layout.h"

namespace voronoi::exporting {

const Layout& aqlm_layout();

}  // namespace voronoi::exporting
