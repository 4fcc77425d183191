// Derivatives of the operations of a decoder block on the CPU.
#include "kernels/kernels.h"

namespace voronoi::kernels {

NnGradientKernels cpu_nn_gradient_kernels() { return {}; }

}  // namespace voronoi::kernels
