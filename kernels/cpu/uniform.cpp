// Linears packed in uniform codes on the CPU.
#include "kernels/uniform.h"

#include <vector>

#include "kernels/cpu/scalar_codes.h"

namespace voronoi::kernels {
namespace {

class UniformForm {
 public:
  using Packed = PackedUniform;
  static constexpr int kScales = 1;

  explicit UniformForm(const PackedUniform& packed)
      : p_(packed), zeros_(packed::index(core::ceil_div(packed.in_features, packed.group_size))) {}

  void decode(std::int64_t row, const std::int32_t* codes, const float* scales, float* values) {
    const auto n_groups = static_cast<std::int64_t>(zeros_.size());
    packed::unpack(p_.zeros + row * core::packed_words(n_groups, p_.bits), p_.bits, n_groups, zeros_.data());
    packed::uniform_row(p_.in_features, p_.group_size, codes, zeros_.data(), scales, values);
  }

 private:
  const PackedUniform& p_;
  std::vector<std::int32_t> zeros_;
};

}  // namespace

UniformKernels cpu_uniform_kernels() { return scalar::table<UniformForm>(); }

}  // namespace voronoi::kernels
