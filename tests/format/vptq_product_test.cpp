// Products with VPTQ's packed linears on the CPU. Against decoded weights within rounding: tests/gpu/packed_test.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "backend/device.h"
#include "support/random_packed.h"

namespace voronoi::test {
namespace {

class VptqProduct : public ::testing::TestWithParam<PackedCase> {
 protected:
  /// x [n_tokens, in]
  std::vector<float> multiply(backend::Context& context, std::int64_t n_tokens, const float* x) const {
    const format::Encoding& encoding = GetParam().encoding;
    std::vector<float> out(static_cast<std::size_t>(n_tokens * encoding.out_features));
    encoding.format->upload(context, encoding)->multiply(context, n_tokens, x, false, out.data());
    return out;
  }
  std::int64_t n_in() const { return GetParam().encoding.in_features; }
};

TEST_P(VptqProduct, ATokenDoesNotDependOnThoseBesideItNorOnThreads) {
  backend::Context one(backend::Device::cpu, 1), three(backend::Device::cpu, 3);
  std::mt19937 engine(5);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(16 * n_in()));
  std::generate(x.begin(), x.end(), [&] { return normal(engine); });
  const std::vector<float> together = multiply(three, 16, x.data());
  const auto n_out = static_cast<std::size_t>(GetParam().encoding.out_features);
  for (std::size_t t = 0; t < 16; ++t) {
    const std::vector<float> alone = multiply(one, 1, x.data() + static_cast<std::int64_t>(t) * n_in());
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + static_cast<std::ptrdiff_t>(t * n_out))) << t;
  }
}

TEST_P(VptqProduct, AUnitInputGivesAColumn) {
  const format::Encoding& encoding = GetParam().encoding;
  backend::Context context(backend::Device::cpu, 2);
  std::vector<float> w(static_cast<std::size_t>(encoding.out_features * n_in())), x(static_cast<std::size_t>(n_in()));
  format::decode(encoding, w);
  for (std::int64_t column = 0; column < n_in(); ++column) {
    x[static_cast<std::size_t>(column)] = 1;
    const std::vector<float> out = multiply(context, 1, x.data());
    x[static_cast<std::size_t>(column)] = 0;
    for (std::int64_t row = 0; row < encoding.out_features; ++row) {
      const float expected = w[static_cast<std::size_t>(row * n_in() + column)];
      ASSERT_NEAR(out[static_cast<std::size_t>(row)], expected, 4e-7F * (1 + std::abs(expected)))
          << row << ", " << column;
    }
  }
}

// Every length of vectors, with and without residuals, groups, outliers and an order of columns; ends of all kinds.
INSTANTIATE_TEST_SUITE_P(Shapes, VptqProduct,
                         ::testing::Values(case_of(PackedShape{24, 64, 4, 8, 0}), case_of(PackedShape{21, 50, 4, 8, 8}),
                                           case_of(PackedShape{10, 7, 4, 3, 3}),
                                           case_of(PackedShape{37, 101, 6, 12, 0}),
                                           case_of(PackedShape{45, 110, 8, 13, 0}),
                                           case_of(PackedShape{50, 70, 8, 12, 8, 1, 0, 0, 0, false, core::DType::bf16}),
                                           case_of(PackedShape{39, 66, 12, 9, 9}),
                                           case_of(PackedShape{35, 90, 16, 8, 4, 1, 0, 0, 0, true}),
                                           case_of(PackedShape{41, 96, 6, 8, 5, 3, 6, 4, 37, true, core::DType::bf16}),
                                           case_of(PackedShape{19, 40, 4, 16, 16, 2, 10, 8, 300, true}),
                                           case_of(PackedShape{5, 33, 8, 1, 1}), case_of(PackedShape{1, 1, 4, 1, 0})));

}  // namespace
}  // namespace voronoi::test
