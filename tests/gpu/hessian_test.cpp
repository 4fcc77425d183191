#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "gpu/gpu_fixture.h"

namespace voronoi::test {
namespace {

class GpuHessian : public GpuTest, public ::testing::WithParamInterface<std::int64_t> {
 protected:
  std::int64_t n() const { return GetParam(); }
  std::vector<std::int32_t> permutation() const {
    std::vector<std::int32_t> perm(static_cast<std::size_t>(n()));
    std::iota(perm.begin(), perm.end(), 0);
    std::shuffle(perm.begin(), perm.end(), std::mt19937(3));
    return perm;
  }
};

TEST_P(GpuHessian, UnpacksAndReordersExactly) {
  const std::vector<float> lower = normal_values(n() * (n() + 1) / 2, 1), diagonal = normal_values(n(), 2);
  const std::vector<std::int32_t> perm = permutation();
  std::vector<std::vector<float>> results;
  std::vector<std::vector<double>> reversed;
  for (backend::Context* context : {&cpu(), &gpu()}) {
    const auto& h = context->hessian();
    const backend::Array<float> packed(*context, std::span<const float>(lower));
    const backend::Array<float> own(*context, std::span<const float>(diagonal));
    const backend::Array<std::int32_t> order(*context, std::span<const std::int32_t>(perm));
    backend::Array<float> matrix(*context, n() * n()), permuted(*context, n() * n()), found(*context, n());
    h.unpack(context->exec(), n(), packed.data(), matrix.data());
    results.push_back(matrix.to_host());
    h.get_diagonal(context->exec(), n(), matrix.data(), found.data());
    results.push_back(found.to_host());
    h.set_diagonal(context->exec(), n(), own.data(), matrix.data());
    h.permute(context->exec(), n(), matrix.data(), order.data(), permuted.data());
    results.push_back(permuted.to_host());
    backend::Array<double> wide(*context, n() * n());
    h.reverse(context->exec(), n(), matrix.data(), order.data(), 0.25, wide.data());
    reversed.push_back(wide.to_host());
  }
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(results[i + 3], results[i]) << "step " << i;
  EXPECT_EQ(reversed[1], reversed[0]);
}

TEST_P(GpuHessian, TurnsAFactorBackAndSeesWhatIsUnsound) {
  const std::vector<float> values = normal_values(n() * n(), 4);
  std::vector<double> lower(values.begin(), values.end());
  for (std::int64_t i = 0; i < n(); ++i) lower[static_cast<std::size_t>(i * (n() + 1))] = 1.5;
  const auto turned = [&](backend::Context& context, bool& sound) {
    const backend::Array<double> in(context, std::span<const double>(lower));
    backend::Array<float> out(context, n() * n());
    sound = context.hessian().reverse_back(context.exec(), n(), in.data(), out.data());
    return out.to_host();
  };
  bool cpu_sound = false, gpu_sound = false;
  EXPECT_EQ(turned(gpu(), gpu_sound), turned(cpu(), cpu_sound));
  EXPECT_TRUE(cpu_sound && gpu_sound);
  lower.back() = -1.0;
  turned(gpu(), gpu_sound);
  EXPECT_FALSE(gpu_sound);
  lower.back() = std::numeric_limits<double>::max();  // beyond fp32
  turned(gpu(), gpu_sound);
  EXPECT_FALSE(gpu_sound);
}

INSTANTIATE_TEST_SUITE_P(Orders, GpuHessian, ::testing::Values(1, 31, 33, 70));

}  // namespace
}  // namespace voronoi::test
