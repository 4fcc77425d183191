// Linears packed in codes of signed levels on the CPU.
#include "kernels/signed_levels.h"

#include "kernels/cpu/scalar_codes.h"

namespace voronoi::kernels {
namespace {

class SignedLevelsForm {
 public:
  using Packed = PackedSignedLevels;
  static constexpr int kScales = 2;

  explicit SignedLevelsForm(const PackedSignedLevels& packed) : p_(packed) {}

  void decode(std::int64_t /*row*/, const std::int32_t* codes, const float* scales, float* values) const {
    packed::signed_levels_row(p_.in_features, p_.group_size, codes, p_.levels, scales, values);
  }

 private:
  const PackedSignedLevels& p_;
};

}  // namespace

SignedLevelsKernels cpu_signed_levels_kernels() { return scalar::table<SignedLevelsForm>(); }

}  // namespace voronoi::kernels
