#include "kernels/kernels.h"

namespace voronoi::kernels {

VqKernels cpu_vq_kernels() { return {}; }

}  // namespace voronoi::kernels
