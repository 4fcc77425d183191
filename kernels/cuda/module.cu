// The one entry of the CUDA module; see kernels::cuda().
#include "kernels/cuda/families.h"

namespace voronoi::kernels {

// TEMPORARY until each family's twin is merged: an absent one leaves its part of the table null.
__attribute__((weak)) NnKernels cuda_nn_kernels();
__attribute__((weak)) VqKernels cuda_vq_kernels();
__attribute__((weak)) VqSliceKernels cuda_vq_slice_kernels();
__attribute__((weak)) DequantKernels cuda_dequant_kernels();
__attribute__((weak)) HessianKernels cuda_hessian_kernels();

namespace {

Kernels make_table() {
  Kernels table{};
  table.device = cuda_device_kernels();
  table.linalg = cuda_linalg_kernels();
  if (cuda_nn_kernels != nullptr) table.nn = cuda_nn_kernels();
  if (cuda_vq_kernels != nullptr) table.vq = cuda_vq_kernels();
  if (cuda_vq_slice_kernels != nullptr) table.slice = cuda_vq_slice_kernels();
  if (cuda_dequant_kernels != nullptr) table.dequant = cuda_dequant_kernels();
  if (cuda_hessian_kernels != nullptr) table.hessian = cuda_hessian_kernels();
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
