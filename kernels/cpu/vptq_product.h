// Products of tokens with a linear packed in VPTQ's layout, straight from its indices.
#pragma once

#include <cstdint>

#include "kernels/exec.h"
#include "kernels/vptq.h"

namespace voronoi::kernels {

/// VptqKernels::fused_matmul. A token's result does not depend on those beside it, nor on the vector width from AVX2
/// on.
void cpu_vptq_product(const Exec& exec, const PackedVptq& packed, std::int64_t n_tokens, const float* x,
                      bool accumulate, float* out);

}  // namespace voronoi::kernels
