// The CPU's table with its decoder alone: readers use nothing else of it, and the rest takes minutes to compile under
// the sanitizers.
#include "kernels/kernels.h"

namespace voronoi::kernels {

const Kernels& cpu() {
  static const Kernels table = [] {
    Kernels parts{};
    parts.dequant = cpu_dequant_kernels();
    return parts;
  }();
  return table;
}

}  // namespace voronoi::kernels
