// The one entry of the CUDA module; see kernels::cuda().
#include "kernels/cuda/families.h"

namespace voronoi::kernels {
namespace {

Kernels make_table() {
  return {.device = cuda_device_kernels(),
          .linalg = cuda_linalg_kernels(),
          .nn = cuda_nn_kernels(),
          .nn_gradient = cuda_nn_gradient_kernels(),
          .vq = cuda_vq_kernels(),
          .slice = cuda_vq_slice_kernels(),
          .hessian = cuda_hessian_kernels(),
#ifdef VORONOI_NCCL
          .collective = cuda_collective_kernels(),
#else
          .collective = no_collective_kernels(),
#endif
          .vptq = cuda_vptq_kernels(),
          .gptvq = cuda_gptvq_kernels(),
          .uniform = cuda_uniform_kernels(),
          .signed_levels = cuda_signed_levels_kernels(),
          .rotation = cuda_rotation_kernels(),
          .e8p = cuda_e8p_kernels(),
          .trellis = cuda_trellis_kernels(),
          .aqlm = cuda_aqlm_kernels(),
          .delta_rule = cuda_delta_rule_kernels()};
}

}  // namespace
}  // namespace voronoi::kernels

/// Null when the caller was built with another table.
extern "C" __attribute__((visibility("default"))) const voronoi::kernels::Kernels* voronoi_cuda_kernels(
    std::size_t table_bytes) {
  static const voronoi::kernels::Kernels table = voronoi::kernels::make_table();
  return table_bytes == sizeof table ? &table : nullptr;
}
