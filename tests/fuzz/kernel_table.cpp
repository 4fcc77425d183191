// The CPU's table with its decoders alone: readers use nothing else of it, and the rest takes minutes to compile under
// the sanitizers.
#include "kernels/kernels.h"

namespace voronoi::kernels {

const Kernels& cpu() {
  static const Kernels table = [] {
    Kernels parts{};
    parts.vptq = cpu_vptq_kernels();
    parts.uniform = cpu_uniform_kernels();
    return parts;
  }();
  return table;
}

}  // namespace voronoi::kernels
