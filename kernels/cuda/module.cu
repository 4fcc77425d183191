// The one entry of the CUDA module; see kernels::cuda().
#include "kernels/cuda/families.h"

namespace voronoi::kernels {
namespace {

Kernels make_table() {
  Kernels table{};
  table.device = cuda_device_kernels();
  table.linalg = cuda_linalg_kernels();
  table.nn = cuda_nn_kernels();
  table.vq = cuda_vq_kernels();
  table.slice = cuda_vq_slice_kernels();
  table.hessian = cuda_hessian_kernels();
  table.vptq = cuda_vptq_kernels();
  table.uniform = cuda_uniform_kernels();
#ifdef VORONOI_NCCL
  table.collective = cuda_collective_kernels();
#else
  table.collective = no_collective_kernels();
#endif
  return table;
}

}  // namespace
}  // namespace voronoi::kernels

/// Null when the caller was built with another table.
extern "C" __attribute__((visibility("default"))) const voronoi::kernels::Kernels* voronoi_cuda_kernels(
    std::size_t table_bytes) {
  static const voronoi::kernels::Kernels table = voronoi::kernels::make_table();
  return table_bytes == sizeof table ? &table : nullptr;
}
