// Linears packed in uniform codes.
#include "kernels/cuda/families.h"
#include "kernels/cuda/scalar_codes.cuh"

namespace voronoi::kernels {
namespace gpu {
namespace {

struct UniformForm {
  using Packed = PackedUniform;
  static constexpr int kScales = 1;
  struct Group {
    float scale;
    std::int32_t zero;
  };

  template <bool kBf16>
  static __device__ __forceinline__ Group load_group(const PackedUniform& p, const RowLayout& layout, std::int64_t row,
                                                     std::int64_t g, const float* tuned_scale) {
    return {scalar::load_scale<kBf16>(p, row * layout.n_groups + g, tuned_scale), load_zero(p, layout, row, g)};
  }
  /// With a scale of 1.
  static __device__ __forceinline__ Group load_unit_group(const PackedUniform& p, const RowLayout& layout,
                                                          std::int64_t row, std::int64_t g) {
    return {1.0F, load_zero(p, layout, row, g)};
  }
  static __device__ __forceinline__ float weight(const PackedUniform& /*p*/, const Group& group, std::uint32_t code) {
    return group.scale * static_cast<float>(static_cast<std::int32_t>(code) - group.zero);
  }

 private:
  static __device__ __forceinline__ std::int32_t load_zero(const PackedUniform& p, const RowLayout& layout,
                                                           std::int64_t row, std::int64_t g) {
    return static_cast<std::int32_t>(packed_value(p.zeros + row * layout.zero_words, g, p.bits));
  }
};

}  // namespace
}  // namespace gpu

UniformKernels cuda_uniform_kernels() { return gpu::scalar::table<gpu::UniformForm>(); }

}  // namespace voronoi::kernels
