#include "kernels/kernels.h"

namespace voronoi::kernels {

NnKernels cpu_nn_kernels() { return {}; }

}  // namespace voronoi::kernels
