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
      : p_(packed),
        unpack_(scalar::unpacker(packed.bits)),
        zeros_(packed::index(core::ceil_div(packed.in_features, packed.group_size))) {}

  struct Group {
    std::int32_t zero;
    float step(std::int32_t code) const { return static_cast<float>(code - zero); }
  };
  void start_row(std::int64_t row) {
    const auto n_groups = static_cast<std::int64_t>(zeros_.size());
    unpack_(p_.zeros + row * core::packed_words(n_groups, p_.bits), n_groups, zeros_.data());
  }
  Group group(std::int64_t g) const { return {zeros_[packed::index(g)]}; }

 private:
  const PackedUniform& p_;
  scalar::Unpack unpack_;
  std::vector<std::int32_t> zeros_;
};

}  // namespace

UniformKernels cpu_uniform_kernels() { return scalar::table<UniformForm>(); }

}  // namespace voronoi::kernels
