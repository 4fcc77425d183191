// Decoding of linears packed in VPTQ's layout. Bound by the write of the matrix: 2 or 4 bytes a weight.
#include "core/error.h"
#include "core/packing.h"
#include "kernels/cuda/families.h"
#include "kernels/cuda/native.h"
#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/vptq_product.h"
#include "kernels/cuda/vptq_vectors.cuh"

namespace voronoi::kernels {
namespace gpu {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kColumnsABlock = 1024;

/// Block (r, chunk): columns of vector row r. Neighbouring threads take neighbouring stored columns, so that the rows
/// are written in whole lines unless a permutation scatters them.
template <bool kBf16, class Numbers, class Out>
__global__ void decode_kernel(VectorLayout layout, Numbers numbers, Out* weight) {
  const std::int64_t r = blockIdx.x, n = layout.p.in_features;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kColumnsABlock;
  const std::int64_t end = first + kColumnsABlock < n ? first + kColumnsABlock : n;
  for (std::int64_t stored = first + threadIdx.x; stored < end; stored += blockDim.x) {
    const std::int64_t column = layout.natural(stored);
    const float scale = numbers.scale(column), bias = numbers.bias(column);
    Out* target = weight + r * layout.p.v * n + column;
    look_up(layout, numbers, r, stored,
            [&](std::int64_t i, float value) { store<kBf16>(value * scale + bias, target + i * n); });
  }
}

template <bool kBf16, class Numbers, class Out>
void decode_numbers(const Exec& exec, const PackedVptq& p, const Numbers& numbers, Out* weight) {
  const VectorLayout layout(p);
  launch(native(exec), decode_kernel<kBf16, Numbers, Out>,
         grid_of(layout.vector_rows, core::ceil_div(p.in_features, kColumnsABlock)), dim3(kThreads), 0, layout, numbers,
         weight);
}

template <class Out>
void decode(const Exec& exec, const PackedVptq& p, Out* weight) {
  if (p.dtype == core::DType::bf16)
    decode_numbers<true>(exec, p, StoredNumbers<true>{p}, weight);
  else
    decode_numbers<false>(exec, p, StoredNumbers<false>{p}, weight);
}

}  // namespace

void decode_tuned(const Exec& exec, const TunedVptq& tuned, float* weight) {
  decode_numbers<false>(exec, tuned.packed, TunedNumbers{tuned}, weight);
}

}  // namespace gpu

VptqKernels cuda_vptq_kernels() {
  return {.decode_f32 = gpu::decode<float>,
          .decode_16 = gpu::decode<std::uint16_t>,
          .fused_matmul = gpu::fused_matmul,
          .decode_tuned = gpu::decode_tuned,
          .gradient = gpu::vptq_gradient};
}

}  // namespace voronoi::kernels
