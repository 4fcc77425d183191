// The door to a backend: one table of entry points a device kind. The CPU table is always there and is the oracle; the
// CUDA table comes from a module that is opened at run time.
#pragma once

#include "kernels/aqlm.h"
#include "kernels/collective.h"
#include "kernels/delta_rule.h"
#include "kernels/device.h"
#include "kernels/e8p.h"
#include "kernels/gptvq.h"
#include "kernels/hessian.h"
#include "kernels/host_search.h"
#include "kernels/linalg.h"
#include "kernels/nn.h"
#include "kernels/nn_gradient.h"
#include "kernels/rotation.h"
#include "kernels/signed_levels.h"
#include "kernels/trellis.h"
#include "kernels/uniform.h"
#include "kernels/vptq.h"
#include "kernels/vq.h"
#include "kernels/vq_slice.h"

namespace voronoi::kernels {

struct Kernels {
  DeviceKernels device;
  LinalgKernels linalg;
  NnKernels nn;
  NnGradientKernels nn_gradient;
  VqKernels vq;
  VqSliceKernels slice;
  HessianKernels hessian;
  CollectiveKernels collective;
  VptqKernels vptq;
  GptvqKernels gptvq;
  UniformKernels uniform;
  SignedLevelsKernels signed_levels;
  RotationKernels rotation;
  E8pKernels e8p;
  TrellisKernels trellis;
  AqlmKernels aqlm;
  DeltaRuleKernels delta_rule;
};

const Kernels& cpu();
/// Opens the module libvoronoi_cuda.so at the first call: the file that VORONOI_CUDA_MODULE names, else beside the
/// executable, else in ../lib. Throws NotCompiled with the remedy when there is none or it cannot be loaded.
const Kernels& cuda();

// Parts of the CPU table, each defined in kernels/cpu/<family>.cpp.
DeviceKernels cpu_device_kernels();
LinalgKernels cpu_linalg_kernels();
NnKernels cpu_nn_kernels();
NnGradientKernels cpu_nn_gradient_kernels();
VqKernels cpu_vq_kernels();
VqSliceKernels cpu_vq_slice_kernels();
HessianKernels cpu_hessian_kernels();
VptqKernels cpu_vptq_kernels();
GptvqKernels cpu_gptvq_kernels();
UniformKernels cpu_uniform_kernels();
RotationKernels cpu_rotation_kernels();
E8pKernels cpu_e8p_kernels();
TrellisKernels cpu_trellis_kernels();
AqlmKernels cpu_aqlm_kernels();
SignedLevelsKernels cpu_signed_levels_kernels();
DeltaRuleKernels cpu_delta_rule_kernels();

}  // namespace voronoi::kernels
