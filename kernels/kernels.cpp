#include "kernels/kernels.h"

#include "core/error.h"

namespace voronoi::kernels {

const Kernels& cpu() {
  static const Kernels table{cpu_device_kernels(), cpu_linalg_kernels(), cpu_nn_kernels(), cpu_vq_kernels(),
                             cpu_dequant_kernels()};
  return table;
}

const Kernels& cuda() { throw core::NotCompiled("the CUDA backend is not part of this build; use --device cpu"); }

}  // namespace voronoi::kernels
