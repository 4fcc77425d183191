// Products in fp32 that do not depend on how an operator's rows are divided over ranks.
#pragma once

#include "kernels/cuda/blas.h"
#include "kernels/cuda/native.h"

namespace voronoi::kernels::gpu {

/// Every element as the CPU computes it, whatever stands beside it. Any extent may be 0 but k.
void gemm_chain(Native& native, const MatrixProduct<float>& product);

}  // namespace voronoi::kernels::gpu
