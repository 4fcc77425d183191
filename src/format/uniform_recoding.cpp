#include "format/uniform_recoding.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "core/packing.h"
#include "format/scalar_recoding.h"
#include "kernels/kernels.h"

namespace voronoi::format {
namespace {

class NearestUniform {
 public:
  NearestUniform(const kernels::PackedUniform& packed, const float* scale)
      : packed_(packed),
        scale_(scale),
        most_(static_cast<float>((std::int64_t{1} << packed.bits) - 1)),
        zeros_(at(core::ceil_div(packed.in_features, packed.group_size))) {}

  void start_row(std::int64_t row) {
    const auto n_groups = std::ssize(zeros_);
    const std::int64_t words = core::packed_words(n_groups, packed_.bits);
    core::unpack_row({packed_.zeros + row * words, at(words)}, packed_.bits, zeros_);
    scales_ = scale_ + row * n_groups;
  }
  NearestCode find(std::int64_t g, float factor, float target) const {
    const float step = scales_[g], zero = static_cast<float>(zeros_[at(g)]);
    const float level = std::nearbyint(target / factor / step) + zero;
    if (!std::isfinite(level)) return {0, std::numeric_limits<float>::quiet_NaN()};
    const float code = std::clamp(level, 0.0F, most_);
    return {static_cast<std::uint32_t>(code), step * (code - zero) * factor};
  }

 private:
  const kernels::PackedUniform& packed_;
  const float* scale_;
  float most_;
  std::vector<std::uint32_t> zeros_;
  const float* scales_ = nullptr;  // of the row
};

}  // namespace

std::int64_t recode_uniform(core::ThreadPool& pool, const kernels::PackedUniform& packed, const float* scale,
                            const float* target, double share, std::vector<std::uint32_t>& codes) {
  std::vector<float> decoded(at(packed.out_features * packed.in_features));
  kernels::cpu().uniform.decode_tuned({&pool, nullptr}, packed, scale, decoded.data());
  return recode_scalars(packed, std::move(decoded), target, share, NearestUniform(packed, scale), codes);
}

}  // namespace voronoi::format
