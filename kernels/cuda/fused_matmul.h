// The CUDA twin of DequantKernels::fused_matmul.
#pragma once

#include <cstdint>

#include "kernels/dequant.h"

namespace voronoi::kernels::gpu {

void fused_matmul(const Exec& exec, const PackedLinear& packed, std::int64_t n_tokens, const float* x, bool accumulate,
                  float* out);

}  // namespace voronoi::kernels::gpu
