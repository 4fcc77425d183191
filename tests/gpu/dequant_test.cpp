#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <ostream>

#include "backend/packed_weight.h"
#include "gpu/gpu_fixture.h"
#include "support/random_packed.h"

namespace voronoi::test {

void PrintTo(const PackedShape& s, std::ostream* out) {
  *out << s.out_features << " x " << s.in_features << ", v " << s.v << ", bits " << s.main_bits << " + "
       << s.residual_bits << ", groups " << s.groups << ", outliers " << s.outlier_size << (s.permuted ? ", perm" : "")
       << (s.dtype == core::DType::bf16 ? ", bf16" : ", f16");
}

namespace {

class GpuDequant : public GpuTest, public ::testing::WithParamInterface<PackedShape> {};

TEST_P(GpuDequant, DecodesTheSameBits) {
  const RandomPacked packed(GetParam());
  const backend::PackedWeight weight(gpu(), packed.view);
  const std::int64_t n = GetParam().out_features * GetParam().in_features;
  std::vector<float> expected(static_cast<std::size_t>(n));
  cpu().dequant().decode_f32(cpu().exec(), packed.view, expected.data());
  backend::Array<float> wide(gpu(), n);
  gpu().dequant().decode_f32(gpu().exec(), weight.view(), wide.data());
  EXPECT_EQ(wide.to_host(), expected);

  std::vector<std::uint16_t> expected_bits(expected.size());
  cpu().dequant().decode_16(cpu().exec(), packed.view, expected_bits.data());
  backend::Array<std::uint16_t> narrow(gpu(), n);
  gpu().dequant().decode_16(gpu().exec(), weight.view(), narrow.data());
  EXPECT_EQ(narrow.to_host(), expected_bits);
}

TEST_P(GpuDequant, MultipliesWithinTheRoundingOfItsSums) {
  const PackedShape& s = GetParam();
  const RandomPacked packed(s);
  const backend::PackedWeight weight(gpu(), packed.view);
  std::vector<float> w(static_cast<std::size_t>(s.out_features * s.in_features));
  cpu().dequant().decode_f32(cpu().exec(), packed.view, w.data());
  for (const std::int64_t n_tokens : {1, 3, 16}) {
    const std::vector<float> x = normal_values(n_tokens * s.in_features, 7);
    const std::vector<float> before = normal_values(n_tokens * s.out_features, 8);
    for (const bool accumulate : {false, true}) {
      const backend::Array<float> gpu_x = on_gpu(x);
      backend::Array<float> gpu_out = on_gpu(before);
      gpu().dequant().fused_matmul(gpu().exec(), weight.view(), n_tokens, gpu_x.data(), accumulate, gpu_out.data());
      std::vector<float> cpu_out = before;
      cpu().dequant().fused_matmul(cpu().exec(), packed.view, n_tokens, x.data(), accumulate, cpu_out.data());
      const std::vector<float> out = gpu_out.to_host();
      for (std::int64_t t = 0; t < n_tokens; ++t)
        for (std::int64_t row = 0; row < s.out_features; ++row) {
          const auto at = static_cast<std::size_t>(t * s.out_features + row);
          double sum = accumulate ? static_cast<double>(before[at]) : 0.0, size = std::fabs(sum);
          for (std::int64_t c = 0; c < s.in_features; ++c) {
            const double term = static_cast<double>(w[static_cast<std::size_t>(row * s.in_features + c)]) *
                                static_cast<double>(x[static_cast<std::size_t>(t * s.in_features + c)]);
            sum += term;
            size += std::fabs(term);
          }
          // Few roundings a term and at most in / 16 additions one after another; scale and bias are taken apart, so a
          // term may be larger than the weight by a factor of a few.
          const double bound = 4 * size * static_cast<double>(16 + s.in_features / 16) * 0x1p-24 + 1e-6;
          EXPECT_NEAR(static_cast<double>(out[at]), sum, bound) << "token " << t << ", row " << row;
          EXPECT_NEAR(static_cast<double>(cpu_out[at]), sum, bound) << "token " << t << ", row " << row;
        }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GpuDequant,
                         ::testing::Values(PackedShape{24, 64, 4, 8, 0}, PackedShape{37, 101, 6, 12, 0},
                                           PackedShape{50, 70, 8, 12, 8, 1, 0, 0, 0, false, core::DType::bf16},
                                           PackedShape{45, 1100, 8, 13, 0}, PackedShape{39, 66, 12, 9, 9},
                                           PackedShape{35, 90, 16, 8, 4, 1, 0, 0, 0, true},
                                           PackedShape{41, 96, 6, 8, 5, 3, 6, 4, 37, true, core::DType::bf16},
                                           PackedShape{19, 40, 4, 16, 16, 2, 10, 8, 300, true},
                                           PackedShape{5, 33, 8, 1, 1}));

}  // namespace
}  // namespace voronoi::test
