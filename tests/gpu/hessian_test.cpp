// Copies, and one rounding from fp64: equal to the CPU's to the bit.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "gpu/gpu_fixture.h"

namespace voronoi {
namespace {

class HessianTest : public test::GpuTest {
 protected:
  std::vector<std::int32_t> shuffled(std::int64_t n) {
    std::vector<std::int32_t> perm(static_cast<std::size_t>(n));
    std::iota(perm.begin(), perm.end(), 0);
    std::shuffle(perm.begin(), perm.end(), std::mt19937(11));
    return perm;
  }
};

constexpr std::int64_t kOrders[] = {1, 2, 31, 33, 100, 257};

TEST_F(HessianTest, UnpacksBothTriangles) {
  for (const std::int64_t n : kOrders) {
    const std::vector<float> lower = test::normal_values(n * (n + 1) / 2, 1);
    std::vector<float> expected(static_cast<std::size_t>(n * n));
    cpu().hessian().unpack(cpu().exec(), n, lower.data(), expected.data());
    const auto packed = on_gpu(lower);
    backend::Array<float> matrix(gpu(), n * n);
    gpu().hessian().unpack(gpu().exec(), n, packed.data(), matrix.data());
    ASSERT_EQ(matrix.to_host(), expected) << n;
  }
}

TEST_F(HessianTest, ReordersAsTheCpuDoes) {
  for (const std::int64_t n : kOrders) {
    const std::vector<float> values = test::normal_values(n * n, 2), other = test::normal_values(n, 3);
    const std::vector<std::int32_t> perm = shuffled(n);
    auto matrix = on_gpu(values);
    const auto order = on_gpu(perm);
    backend::Array<float> out(gpu(), n * n), line(gpu(), n);
    std::vector<float> expected(static_cast<std::size_t>(n * n)), expected_line(static_cast<std::size_t>(n));

    cpu().hessian().permute(cpu().exec(), n, values.data(), perm.data(), expected.data());
    gpu().hessian().permute(gpu().exec(), n, matrix.data(), order.data(), out.data());
    ASSERT_EQ(out.to_host(), expected) << n;

    backend::Array<double> wide(gpu(), n * n);
    std::vector<double> expected_wide(static_cast<std::size_t>(n * n));
    cpu().hessian().reverse(cpu().exec(), n, values.data(), perm.data(), 0.125, expected_wide.data());
    gpu().hessian().reverse(gpu().exec(), n, matrix.data(), order.data(), 0.125, wide.data());
    ASSERT_EQ(wide.to_host(), expected_wide) << n;

    cpu().hessian().get_diagonal(cpu().exec(), n, values.data(), expected_line.data());
    gpu().hessian().get_diagonal(gpu().exec(), n, matrix.data(), line.data());
    ASSERT_EQ(line.to_host(), expected_line) << n;

    std::vector<float> changed = values;
    const auto replacement = on_gpu(other);
    cpu().hessian().set_diagonal(cpu().exec(), n, other.data(), changed.data());
    gpu().hessian().set_diagonal(gpu().exec(), n, replacement.data(), matrix.data());
    ASSERT_EQ(matrix.to_host(), changed) << n;
  }
}

TEST_F(HessianTest, ReversesBackAndSeesWhatIsUnsound) {
  const std::int64_t n = 301;
  std::vector<double> lower(static_cast<std::size_t>(n * n));
  std::mt19937 engine(5);
  std::normal_distribution<double> normal;
  for (double& value : lower) value = normal(engine);
  const auto at = [n](std::int64_t i, std::int64_t j) { return static_cast<std::size_t>(i * n + j); };
  for (std::int64_t i = 0; i < n; ++i) lower[at(i, i)] = 1 + std::abs(lower[at(i, i)]);
  const auto check = [&](bool sound) {
    std::vector<float> expected(static_cast<std::size_t>(n * n));
    EXPECT_EQ(cpu().hessian().reverse_back(cpu().exec(), n, lower.data(), expected.data()), sound);
    const auto array = on_gpu(lower);
    backend::Array<float> out(gpu(), n * n);
    EXPECT_EQ(gpu().hessian().reverse_back(gpu().exec(), n, array.data(), out.data()), sound);
    if (sound) {
      EXPECT_EQ(out.to_host(), expected);
    }
  };
  check(true);
  lower[at(3, 200)] = std::numeric_limits<double>::quiet_NaN();  // above the diagonal: not looked at
  check(true);
  const double kept = lower[at(200, 3)];
  for (const double bad : {std::numeric_limits<double>::infinity(), 1e300}) {
    lower[at(200, 3)] = bad;
    check(false);
  }
  lower[at(200, 3)] = kept;
  lower[at(7, 7)] = 0;
  check(false);
}

}  // namespace
}  // namespace voronoi
