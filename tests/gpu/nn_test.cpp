// Row-wise and elementwise operations of a decoder block: CUDA twins against the CPU's.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <set>

#include "gpu/gpu_fixture.h"

namespace voronoi {
namespace {

using backend::Array;
using test::normal_values;

constexpr float kEpsilon = 1.2e-7F;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

class GpuNn : public test::GpuTest {
 protected:
  const kernels::NnKernels& twin() { return gpu().nn(); }
  const kernels::NnKernels& oracle() { return cpu().nn(); }

  /// |a - b| <= bound * (1 + |b|) everywhere; bound 0 asks for equality.
  static void expect_near(const std::vector<float>& a, const std::vector<float>& b, float bound) {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], bound * (1 + std::fabs(b[i]))) << i;
  }
};

using Map = void (*)(const kernels::Exec&, std::int64_t, const float*, const float*, float*);

TEST_F(GpuNn, ElementwiseOperations) {
  // Sizes below, at and above a vector and a block's share; offset: addresses that no vector load may touch.
  for (const std::int64_t n : {1, 3, 4, 1021, 1024, 5003})
    for (const std::int64_t offset : {0, 1}) {
      const std::vector<float> x = normal_values(n + offset, 1), y = normal_values(n + offset, 2);
      const Array<float> gx = on_gpu(x), gy = on_gpu(y);
      const auto pair = [&](Map ours, Map theirs, float bound) {
        Array<float> out = on_gpu(x);
        std::vector<float> expected = x;
        ours(gpu().exec(), n, gx.data() + offset, gy.data() + offset, out.data() + offset);
        theirs(cpu().exec(), n, x.data() + offset, y.data() + offset, expected.data() + offset);
        expect_near(out.to_host(), expected, bound);
        // In place.
        out = on_gpu(x);
        ours(gpu().exec(), n, out.data() + offset, gy.data() + offset, out.data() + offset);
        expect_near(out.to_host(), expected, bound);
      };
      // exp, a sum, a quotient and a product: a few roundings each.
      pair(twin().swiglu, oracle().swiglu, 8 * kEpsilon);
      pair(twin().geglu, oracle().geglu, 16 * kEpsilon);

      const auto in_place = [&](const auto& call, float bound) {
        Array<float> out = on_gpu(x);
        std::vector<float> expected = x;
        call(twin(), gpu().exec(), out.data() + offset, gy.data() + offset);
        call(oracle(), cpu().exec(), expected.data() + offset, y.data() + offset);
        expect_near(out.to_host(), expected, bound);
      };
      in_place([&](const auto& nn, const auto& exec, float* a, const float* b) { nn.add(exec, n, b, a); }, 0);
      in_place([&](const auto& nn, const auto& exec, float* a, const float*) { nn.scale(exec, n, 1.7F, a); }, 0);
      in_place([&](const auto& nn, const auto& exec, float* a, const float*) { nn.soft_cap(exec, n, 1.5F, a); },
               8 * kEpsilon);
      in_place([&](const auto& nn, const auto& exec, float* a, const float*) { nn.sigmoid(exec, n, a); }, 4 * kEpsilon);
    }
}

TEST_F(GpuNn, GatesOfLargeInputsStayFinite) {
  const std::vector<float> gate{-200, -88, 88, 200, -0.0F}, up{1, 1, 1, 1, 1};
  for (const auto operation : {twin().swiglu, twin().geglu}) {
    Array<float> out(gpu(), 5);
    const Array<float> g = on_gpu(gate), u = on_gpu(up);
    operation(gpu().exec(), 5, g.data(), u.data(), out.data());
    expect_near(out.to_host(), {0, 0, 88, 200, 0}, 1e-6F);
  }
}

TEST_F(GpuNn, RmsNorm) {
  for (const std::int64_t dim : {1, 10, 128, 576, 1024, 1025, 4099}) {
    const std::int64_t n_rows = dim > 1024 ? 3 : 19, ld = dim + 3;
    const std::vector<float> x = normal_values(n_rows * ld, 4), weight = normal_values(dim, 5);
    const Array<float> gpu_weight = on_gpu(weight);
    Array<float> out = on_gpu(x);  // in place; what lies between rows stays
    std::vector<float> expected = x;
    twin().rms_norm(gpu().exec(), n_rows, dim, out.data(), ld, gpu_weight.data(), 1e-5F, out.data(), ld);
    oracle().rms_norm(cpu().exec(), n_rows, dim, expected.data(), ld, weight.data(), 1e-5F, expected.data(), ld);
    // Sums of `dim` squares in two orders: about sqrt(dim) roundings apart.
    expect_near(out.to_host(), expected, kEpsilon * (4 + std::sqrt(static_cast<float>(dim))));
  }
}

TEST_F(GpuNn, RopeBiasAndWeightedRowsAreExact) {
  for (const std::int64_t head_dim : {2, 8, 18, 64, 80}) {
    const std::int64_t n_tokens = 5, n_rows = 10, n_heads = 3, ld = n_heads * head_dim + 1;
    const std::vector<float> x = normal_values(n_rows * ld, 6), turns = normal_values(n_tokens * head_dim, 7);
    const Array<float> gpu_turns = on_gpu(turns);
    Array<float> out = on_gpu(x);
    std::vector<float> expected = x;
    twin().rope(gpu().exec(), {n_rows, n_tokens, n_heads, head_dim, head_dim}, gpu_turns.data(), out.data(), ld);
    oracle().rope(cpu().exec(), {n_rows, n_tokens, n_heads, head_dim, head_dim}, turns.data(), expected.data(), ld);
    EXPECT_EQ(out.to_host(), expected);
    twin().add_bias(gpu().exec(), n_rows, ld - 1, gpu_turns.data(), out.data(), ld);
    oracle().add_bias(cpu().exec(), n_rows, ld - 1, turns.data(), expected.data(), ld);
    EXPECT_EQ(out.to_host(), expected);
  }
  const std::int64_t dim = 1033;
  const std::vector<float> x = normal_values(3 * dim, 8), weight = normal_values(3, 9),
                           base = normal_values(6 * dim, 1);
  const std::vector<std::int32_t> row{4, 0, 5};
  const Array<float> gpu_x = on_gpu(x), gpu_weight = on_gpu(weight);
  const Array<std::int32_t> gpu_row = on_gpu(row);
  for (const bool given : {true, false}) {
    Array<float> out = on_gpu(base);
    std::vector<float> expected = base;
    twin().add_weighted_rows(gpu().exec(), 3, dim, gpu_x.data(), given ? gpu_row.data() : nullptr, gpu_weight.data(),
                             out.data());
    oracle().add_weighted_rows(cpu().exec(), 3, dim, x.data(), given ? row.data() : nullptr, weight.data(),
                               expected.data());
    EXPECT_EQ(out.to_host(), expected);
  }
}

TEST_F(GpuNn, LikelihoodsAreOfDoublePrecision) {
  for (const std::int64_t vocab : {1, 33, 513, 5003}) {
    const std::int64_t n_rows = 3, ld = vocab + 2;
    std::vector<float> logits = normal_values(n_rows * ld, 10);
    for (float& value : logits) value *= 8;
    logits[0] = 3000;  // the largest is subtracted before anything is raised to a power
    const std::vector<std::int32_t> target{0, static_cast<std::int32_t>(vocab - 1),
                                           static_cast<std::int32_t>(vocab / 2)};
    const Array<float> gpu_logits = on_gpu(logits);
    const Array<std::int32_t> gpu_target = on_gpu(target);
    Array<double> out(gpu(), n_rows), again(gpu(), n_rows);
    std::vector<double> expected(at(n_rows));
    twin().nll(gpu().exec(), n_rows, vocab, gpu_logits.data(), ld, gpu_target.data(), out.data());
    twin().nll(gpu().exec(), n_rows, vocab, gpu_logits.data(), ld, gpu_target.data(), again.data());
    oracle().nll(cpu().exec(), n_rows, vocab, logits.data(), ld, target.data(), expected.data());
    for (std::int64_t i = 0; i < n_rows; ++i) EXPECT_NEAR(out.to_host()[at(i)], expected[at(i)], 1e-11);
    EXPECT_EQ(out.to_host(), again.to_host());
  }
}

TEST_F(GpuNn, ArgmaxIsTheFirstOfTheLargest) {
  for (const std::int64_t vocab : {1, 33, 513, 5003}) {
    const std::int64_t n_rows = 70, ld = vocab + 2;
    std::vector<float> logits = normal_values(n_rows * ld, 12);
    for (float& value : logits) value = std::round(2 * value) / 2;  // many equal ones
    const Array<float> gpu_logits = on_gpu(logits);
    Array<std::int32_t> place(gpu(), n_rows);
    std::vector<std::int32_t> expected(at(n_rows));
    twin().argmax(gpu().exec(), n_rows, vocab, gpu_logits.data(), ld, place.data());
    oracle().argmax(cpu().exec(), n_rows, vocab, logits.data(), ld, expected.data());
    EXPECT_EQ(place.to_host(), expected);
  }
}

TEST_F(GpuNn, RoutersAgree) {
  for (const std::int64_t n_experts : {1, 4, 8, 60, 129})
    for (const std::int64_t top_k : {std::int64_t{1}, std::min<std::int64_t>(2, n_experts), n_experts})
      for (const bool renormalise : {false, true}) {
        const std::int64_t n_rows = 11;
        std::vector<float> logits = normal_values(n_rows * n_experts, 11);
        for (float& value : logits) value = std::round(2 * value) / 2;  // many equal ones
        const Array<float> gpu_logits = on_gpu(logits);
        Array<std::int32_t> expert(gpu(), n_rows * top_k);
        Array<float> weight(gpu(), n_rows * top_k);
        std::vector<std::int32_t> expected_expert(at(n_rows * top_k));
        std::vector<float> expected_weight(at(n_rows * top_k));
        twin().route(gpu().exec(), {n_rows, n_experts, top_k, renormalise}, gpu_logits.data(), nullptr, expert.data(),
                     weight.data());
        oracle().route(cpu().exec(), {n_rows, n_experts, top_k, renormalise}, logits.data(), nullptr,
                       expected_expert.data(), expected_weight.data());
        EXPECT_EQ(expert.to_host(), expected_expert);
        expect_near(weight.to_host(), expected_weight, 16 * kEpsilon);
      }
}

TEST_F(GpuNn, RoutersStaySaneOnBrokenLogits) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinite = std::numeric_limits<float>::infinity();
  const std::vector<float> logits{nan, 1, nan, 2, nan, nan, nan, nan, -infinite, -infinite, 3, infinite};
  const Array<float> gpu_logits = on_gpu(logits);
  Array<std::int32_t> expert(gpu(), 9);
  Array<float> weight(gpu(), 9);
  twin().route(gpu().exec(), {3, 4, 3, true}, gpu_logits.data(), nullptr, expert.data(), weight.data());
  const std::vector<std::int32_t> chosen = expert.to_host();
  for (std::size_t row = 0; row < 3; ++row) {
    const std::set<std::int32_t> distinct(chosen.begin() + static_cast<std::ptrdiff_t>(3 * row),
                                          chosen.begin() + static_cast<std::ptrdiff_t>(3 * row + 3));
    EXPECT_EQ(distinct.size(), 3U);
    EXPECT_GE(*distinct.begin(), 0);
    EXPECT_LT(*distinct.rbegin(), 4);
  }
  const std::vector<float> weights = weight.to_host();
  for (std::size_t i = 0; i < 6; ++i) EXPECT_TRUE(std::isnan(weights[i])) << i;
}

}  // namespace
}  // namespace voronoi
