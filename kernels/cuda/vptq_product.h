// The CUDA twin of VptqKernels::fused_matmul.
#pragma once

#include <cstdint>

#include "kernels/vptq.h"

namespace voronoi::kernels::gpu {

void fused_matmul(const Exec& exec, const PackedVptq& packed, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out);

}  // namespace voronoi::kernels::gpu
