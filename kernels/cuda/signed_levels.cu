// Linears packed in codes of signed levels.
#include "kernels/cuda/families.h"
#include "kernels/cuda/scalar_codes.cuh"

namespace voronoi::kernels {
namespace gpu {
namespace {

struct SignedLevelsForm {
  using Packed = PackedSignedLevels;
  static constexpr int kScales = 2;
  struct Group {
    float above, below;
  };

  template <bool kBf16>
  static __device__ __forceinline__ Group load_group(const PackedSignedLevels& p, const RowLayout& layout,
                                                     std::int64_t row, std::int64_t g, const float* tuned_scale) {
    const std::int64_t at = 2 * (row * layout.n_groups + g);
    return {scalar::load_scale<kBf16>(p, at, tuned_scale), scalar::load_scale<kBf16>(p, at + 1, tuned_scale)};
  }
  /// With scales of 1.
  static __device__ __forceinline__ Group load_unit_group(const PackedSignedLevels& /*p*/, const RowLayout& /*layout*/,
                                                          std::int64_t /*row*/, std::int64_t /*g*/) {
    return {1.0F, 1.0F};
  }
  static __device__ __forceinline__ float weight(const PackedSignedLevels& p, const Group& group, std::uint32_t code) {
    const float step = load_constant(p.levels + code);
    return (step < 0 ? group.below : group.above) * step;
  }
};

}  // namespace
}  // namespace gpu

SignedLevelsKernels cuda_signed_levels_kernels() { return gpu::scalar::table<gpu::SignedLevelsForm>(); }

}  // namespace voronoi::kernels
