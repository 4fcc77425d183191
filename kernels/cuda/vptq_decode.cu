// Decoding of linears packed in VPTQ's layout. Bound by the write of the matrix: 2 or 4 bytes a weight.
#include "core/error.h"
#include "core/packing.h"
#include "kernels/cuda/families.h"
#include "kernels/cuda/native.h"
#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/vptq_product.h"

namespace voronoi::kernels {
namespace gpu {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kColumnsABlock = 1024;

/// Block (r, chunk): columns of vector row r. Neighbouring threads take neighbouring stored columns, so that the rows
/// are written in whole lines unless a permutation scatters them.
template <bool kBf16, class Out>
__global__ void decode_kernel(PackedVptq p, std::int64_t vector_rows, std::int64_t words, Out* weight) {
  const std::int64_t r = blockIdx.x, first_row = r * p.v;
  const std::int64_t rows = first_row + p.v <= p.out_features ? p.v : p.out_features - first_row;
  const int bits = p.main_bits + p.residual_bits;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kColumnsABlock;
  const std::int64_t end = first + kColumnsABlock < p.in_features ? first + kColumnsABlock : p.in_features;
  for (std::int64_t stored = first + threadIdx.x; stored < end; stored += blockDim.x) {
    const std::int64_t column = p.perm != nullptr ? p.perm[stored] : stored;
    const float scale = widen16<kBf16>(p.scale[column]), bias = widen16<kBf16>(p.bias[column]);
    Out* target = weight + first_row * p.in_features + column;
    if (stored < p.outlier_size) {
      for (std::int64_t i = 0; i < rows; ++i) {
        const std::int64_t row = first_row + i;
        const std::int64_t code = p.outlier_indices[row / p.v0 * p.outlier_size + stored];
        const float value = widen16<kBf16>(p.outlier_codebook[code * p.v0 + row % p.v0]);
        store<kBf16>(value * scale + bias, target + i * p.in_features);
      }
      continue;
    }
    const std::int64_t group = (stored - p.outlier_size) / p.group_size;
    const std::int64_t j = stored - p.outlier_size - group * p.group_size;
    const std::uint32_t code = packed_value(p.indices + (group * vector_rows + r) * words, j, bits);
    const std::int64_t main_code = code & ((1U << p.main_bits) - 1U);
    const std::uint16_t* main = p.codebook + ((group << p.main_bits) + main_code) * p.v;
    const std::uint16_t* residual = nullptr;
    if (p.residual_bits > 0)
      residual = p.residual_codebook + ((group << p.residual_bits) + (code >> p.main_bits)) * p.v;
    for (std::int64_t i = 0; i < rows; ++i) {
      float value = widen16<kBf16>(main[i]);
      if (residual != nullptr) value = value + widen16<kBf16>(residual[i]);
      store<kBf16>(value * scale + bias, target + i * p.in_features);
    }
  }
}

template <class Out>
void decode(const Exec& exec, const PackedVptq& p, Out* weight) {
  Native& gpu = native(exec);
  const std::int64_t vector_rows = core::ceil_div(p.out_features, p.v);
  const std::int64_t words = core::packed_words(p.group_size, p.main_bits + p.residual_bits);
  const dim3 grid = grid_of(vector_rows, core::ceil_div(p.in_features, kColumnsABlock));
  const auto kernel = p.dtype == core::DType::bf16 ? decode_kernel<true, Out> : decode_kernel<false, Out>;
  launch(gpu, kernel, grid, dim3(kThreads), 0, p, vector_rows, words, weight);
}

}  // namespace
}  // namespace gpu

VptqKernels cuda_vptq_kernels() {
  return {.decode_f32 = gpu::decode<float>, .decode_16 = gpu::decode<std::uint16_t>, .fused_matmul = gpu::fused_matmul};
}

}  // namespace voronoi::kernels
