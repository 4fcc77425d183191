// Linears packed in codes of signed levels on the CPU.
#include "kernels/signed_levels.h"

#include "kernels/cpu/scalar_codes.h"

namespace voronoi::kernels {
namespace {

class SignedLevelsForm {
 public:
  using Packed = PackedSignedLevels;
  static constexpr int kScales = 2;

  explicit SignedLevelsForm(const PackedSignedLevels& packed) : group_{packed.levels} {}

  struct Group {
    const float* levels;
    float step(std::int32_t code) const { return levels[code]; }
  };
  void start_row(std::int64_t /*row*/) {}
  Group group(std::int64_t /*g*/) const { return group_; }

 private:
  Group group_;
};

}  // namespace

SignedLevelsKernels cpu_signed_levels_kernels() { return scalar::table<SignedLevelsForm>(); }

}  // namespace voronoi::kernels
