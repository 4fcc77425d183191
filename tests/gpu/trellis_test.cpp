// Viterbi's algorithm on the device: the very strings of the host.
#include <gtest/gtest.h>

#include <cstdint>
#include <tuple>
#include <vector>

#include "gpu/gpu_fixture.h"

namespace voronoi::test {
namespace {

class GpuTrellis : public GpuTest {};

TEST_F(GpuTrellis, FindsTheSameStrings) {
  const std::vector<std::int32_t> begin{0, 16, 48};
  const std::int64_t rows = 41;
  for (const auto& [bits, state_bits, code] : {std::tuple{1, 12, kernels::TrellisCode::mul1},
                                               {2, 12, kernels::TrellisCode::mcg},
                                               {3, 12, kernels::TrellisCode::three_inst},
                                               {4, 13, kernels::TrellisCode::mul1},
                                               {5, 15, kernels::TrellisCode::mul1}})
    for (const bool keep_seam : {false, true}) {
      const kernels::TrellisSearch search{bits, state_bits, code, keep_seam, keep_seam};
      const std::vector<float> target = normal_values(rows, 3);
      std::vector<std::uint8_t> here(48, 1);
      backend::Array<std::uint8_t> there = on_gpu(here);
      std::vector<float> value(48);
      cpu().trellis().search(cpu().exec(), search, 2, begin.data(), rows, target.data(), here.data(), value.data());
      const backend::Array<float> gpu_target = on_gpu(target);
      backend::Array<float> gpu_value(gpu(), 48);
      gpu().trellis().search(gpu().exec(), search, 2, begin.data(), rows, gpu_target.data(), there.data(),
                             gpu_value.data());
      EXPECT_EQ(there.to_host(), here) << bits << " bits";
      EXPECT_EQ(gpu_value.to_host(), value) << bits << " bits";
    }
}

}  // namespace
}  // namespace voronoi::test
