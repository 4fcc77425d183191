// Vectors of linears packed in VPTQ's layout: where their numbers are.
#pragma once

#include <cstdint>

#include "core/packing.h"
#include "kernels/cuda/packed.cuh"
#include "kernels/vptq.h"

namespace voronoi::kernels::gpu {

/// Of a packed linear, for kernels.
struct VectorLayout {
  PackedVptq p;
  std::int64_t vector_rows, words;
  int bits;

  explicit VectorLayout(const PackedVptq& packed)
      : p(packed),
        vector_rows(core::ceil_div(packed.out_features, packed.v)),
        words(core::packed_words(packed.group_size, packed.main_bits + packed.residual_bits)),
        bits(packed.main_bits + packed.residual_bits) {}

  __device__ std::int64_t natural(std::int64_t stored) const { return p.perm != nullptr ? p.perm[stored] : stored; }
  /// Rows of the matrix in vector row r.
  __device__ std::int64_t rows(std::int64_t r) const {
    return (r + 1) * p.v <= p.out_features ? p.v : p.out_features - r * p.v;
  }
};

/// visit.outlier(i, place in the outlier codebook) or visit.centroid(i, place in the codebook, place in the residual
/// codebook or -1) for each row i < rows(r) of the vector at stored column `stored` of vector row r.
template <class Visit>
__device__ __forceinline__ void visit_vector(const VectorLayout& layout, std::int64_t r, std::int64_t stored,
                                             const Visit& visit) {
  const PackedVptq& p = layout.p;
  const std::int64_t rows = layout.rows(r);
  if (stored < p.outlier_size) {
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t row = r * p.v + i;
      const std::int64_t code = p.outlier_indices[row / p.v0 * p.outlier_size + stored];
      visit.outlier(i, code * p.v0 + row % p.v0);
    }
    return;
  }
  const std::int64_t group = (stored - p.outlier_size) / p.group_size;
  const std::int64_t j = stored - p.outlier_size - group * p.group_size;
  const std::uint32_t code = packed_value(p.indices + (group * layout.vector_rows + r) * layout.words, j, layout.bits);
  const std::int64_t main_code = code & ((1U << p.main_bits) - 1U);
  const std::int64_t main = ((group << p.main_bits) + main_code) * p.v;
  const std::int64_t residual = p.residual_bits > 0 ? ((group << p.residual_bits) + (code >> p.main_bits)) * p.v : -1;
  for (std::int64_t i = 0; i < rows; ++i) visit.centroid(i, main + i, residual < 0 ? -1 : residual + i);
}

/// The numbers of a packed linear as stored.
template <bool kBf16>
struct StoredNumbers {
  PackedVptq p;
  __device__ float main(std::int64_t i) const { return widen16<kBf16>(p.codebook[i]); }
  __device__ float residual(std::int64_t i) const { return widen16<kBf16>(p.residual_codebook[i]); }
  __device__ float outlier(std::int64_t i) const { return widen16<kBf16>(p.outlier_codebook[i]); }
  __device__ float scale(std::int64_t column) const { return widen16<kBf16>(p.scale[column]); }
  __device__ float bias(std::int64_t column) const { return widen16<kBf16>(p.bias[column]); }
};

/// Those that are being tuned.
struct TunedNumbers {
  TunedVptq t;
  __device__ float main(std::int64_t i) const { return t.codebook[i]; }
  __device__ float residual(std::int64_t i) const { return t.residual_codebook[i]; }
  __device__ float outlier(std::int64_t i) const { return t.outlier_codebook[i]; }
  __device__ float scale(std::int64_t column) const { return t.scale[column]; }
  __device__ float bias(std::int64_t column) const { return t.bias[column]; }
};

/// use(i, centroid with its residual, or outlier) for each row of a vector.
template <class Numbers, class Use>
struct LookUp {
  const Numbers& numbers;
  const Use& use;
  __device__ void outlier(std::int64_t i, std::int64_t place) const { use(i, numbers.outlier(place)); }
  __device__ void centroid(std::int64_t i, std::int64_t main, std::int64_t residual) const {
    float value = numbers.main(main);
    if (residual >= 0) value = value + numbers.residual(residual);
    use(i, value);
  }
};
template <class Numbers, class Use>
__device__ __forceinline__ void look_up(const VectorLayout& layout, const Numbers& numbers, std::int64_t r,
                                        std::int64_t stored, const Use& use) {
  visit_vector(layout, r, stored, LookUp<Numbers, Use>{numbers, use});
}

// See VptqKernels.
void decode_tuned(const Exec& exec, const TunedVptq& tuned, float* weight);
void vptq_gradient(const Exec& exec, const TunedVptq& tuned, const float* d_weight, const VptqGradient& sum);

}  // namespace voronoi::kernels::gpu
