#include "kernels/kernels.h"

#include "core/error.h"

namespace voronoi::kernels {

const Kernels& cpu() {
  static const Kernels table = [] {
    Kernels parts{};
    parts.device = cpu_device_kernels();
    parts.linalg = cpu_linalg_kernels();
    parts.nn = cpu_nn_kernels();
    parts.vq = cpu_vq_kernels();
    parts.slice = cpu_vq_slice_kernels();
    parts.hessian = cpu_hessian_kernels();
    return parts;
  }();
  return table;
}

const Kernels& cuda() { throw core::NotCompiled("the CUDA backend is not part of this build; use --device cpu"); }

}  // namespace voronoi::kernels
