// Attention whose products are of bfloat16 values.
#pragma once

#include "kernels/cpu/bf16.h"
#include "kernels/nn.h"

namespace voronoi::kernels {

/// NnKernels::attention for bf16: q, k, v and the softmax's numerators are rounded, products are summed in the order of
/// kernels/cpu/bf16.h (the scores over head_dim, the outputs over keys), the scale is on the scores.
void cpu_bf16_attention(const Exec& exec, const AttentionShape& shape, const float* q, const float* k, const float* v,
                        float* out, Bf16Unit unit = bf16_unit());

}  // namespace voronoi::kernels
