// Parts of the CUDA table, each defined in kernels/cuda/<family>.cu.
#pragma once

#include "kernels/kernels.h"

namespace voronoi::kernels {

DeviceKernels cuda_device_kernels();
LinalgKernels cuda_linalg_kernels();
NnKernels cuda_nn_kernels();
NnGradientKernels cuda_nn_gradient_kernels();
VqKernels cuda_vq_kernels();
VqSliceKernels cuda_vq_slice_kernels();
HessianKernels cuda_hessian_kernels();
VptqKernels cuda_vptq_kernels();
GptvqKernels cuda_gptvq_kernels();
UniformKernels cuda_uniform_kernels();
RotationKernels cuda_rotation_kernels();
E8pKernels cuda_e8p_kernels();
TrellisKernels cuda_trellis_kernels();
AqlmKernels cuda_aqlm_kernels();
SignedLevelsKernels cuda_signed_levels_kernels();
DeltaRuleKernels cuda_delta_rule_kernels();
CollectiveKernels cuda_collective_kernels();

}  // namespace voronoi::kernels
