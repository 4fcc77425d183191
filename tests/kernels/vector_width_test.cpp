// The same bits with AVX2 as with AVX-512: a run may span machines of both kinds.
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/kernels.h"
#include "support/skip.h"

namespace voronoi::kernels {
namespace {

std::vector<float> floats_of(std::int64_t n, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(engine);
  return values;
}

class VectorWidth : public ::testing::Test {
 protected:
  void SetUp() override {
    if ((hwy::SupportedTargets() & HWY_AVX3) == 0) VORONOI_SKIP_MACHINE("this processor has no AVX-512");
  }
  void TearDown() override { disable(0); }

  static void disable(std::int64_t targets) {
    hwy::DisableTargets(targets);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }

  /// `compute` with the widest vectors and again with AVX2 gives equal results.
  template <class Compute>
  void expect_equal(const Compute& compute) {
    disable(0);
    const auto wide = compute();
    disable(HWY_AVX3 | HWY_AVX3_DL);
    EXPECT_EQ(wide, compute());
  }

  core::ThreadPool pool_{2};
  Exec exec_{&pool_, nullptr};
  const Kernels& kernels_ = cpu();
};

TEST_F(VectorWidth, DoesNotChangeTheHostsSearch) {
  for (const std::int64_t dim : {1, 2, 4, 8, 16}) {
    const std::int64_t n = 200, k = 100, stride = host_lanes(n);
    const std::vector<float> x = floats_of(dim * stride, 5), book = floats_of((dim + 1) * k, 6);
    expect_equal([&] {
      std::vector<std::int32_t> index(static_cast<std::size_t>(stride));
      nearest_by_column(n, dim, x.data(), stride, k, book.data(), index.data());
      return index;
    });
  }
}

TEST_F(VectorWidth, DoesNotChangeMatrixProducts) {
  const std::int64_t n = 150, k = 700;
  const std::vector<float> a = floats_of(230 * k, 1), b = floats_of(n * k, 2);
  for (const std::int64_t m : {1, 3, 230})
    expect_equal([&] {
      std::vector<float> c(static_cast<std::size_t>(m * n), 1.0F);
      kernels_.linalg.gemm_f32(exec_, false, true, m, n, k, 0.7F, a.data(), k, b.data(), k, 0.3F, c.data(), n);
      return c;
    });
  expect_equal([&] {
    std::vector<double> sum(static_cast<std::size_t>(n * (n + 1) / 2));
    kernels_.linalg.gram_accumulate(exec_, k, n, b.data(), n, core::DType::f32, sum.data());
    return sum;
  });
}

TEST_F(VectorWidth, IsReallyChangedByTheseTests) {
  // Below AVX2 there is no fused multiply-add, and the bits differ.
  const std::vector<float> a = floats_of(100 * 100, 6);
  std::vector<float> wide(100 * 100), narrow(wide);
  kernels_.linalg.gemm_f32(exec_, false, true, 100, 100, 100, 1.0F, a.data(), 100, a.data(), 100, 0.0F, wide.data(),
                           100);
  disable(HWY_AVX3 | HWY_AVX3_DL | HWY_AVX2);
  kernels_.linalg.gemm_f32(exec_, false, true, 100, 100, 100, 1.0F, a.data(), 100, a.data(), 100, 0.0F, narrow.data(),
                           100);
  EXPECT_NE(wide, narrow);
}

TEST_F(VectorWidth, DoesNotChangeFactorizations) {
  const std::int64_t n = 300;
  const std::vector<float> x = floats_of(2 * n * n, 3);
  std::vector<double> lower(static_cast<std::size_t>(n * (n + 1) / 2)), gram(static_cast<std::size_t>(n * n));
  kernels_.linalg.gram_accumulate(exec_, 2 * n, n, x.data(), n, core::DType::f32, lower.data());
  for (std::int64_t row = 0; row < n; ++row)
    std::copy_n(lower.begin() + row * (row + 1) / 2, row + 1, gram.begin() + row * n);
  expect_equal([&] {
    std::vector<double> l = gram;
    EXPECT_EQ(kernels_.linalg.cholesky_lower_f64(exec_, n, l.data(), n), 0);
    EXPECT_EQ(kernels_.linalg.invert_lower_f64(exec_, n, l.data(), n), 0);
    return l;
  });
}

TEST_F(VectorWidth, DoesNotChangeDecoderOperations) {
  const std::int64_t rows = 600, dim = 44;
  const std::vector<float> x = floats_of(rows * dim, 4), y = floats_of(rows * dim, 5);
  expect_equal([&] {
    std::vector<float> out(x.size());
    kernels_.nn.rms_norm(exec_, rows, dim, x.data(), dim, y.data(), 1e-5F, out.data(), dim);
    return out;
  });
  expect_equal([&] {
    std::vector<float> out(x.size());
    kernels_.nn.swiglu(exec_, rows * dim, x.data(), y.data(), out.data());
    return out;
  });
  expect_equal([&] {
    std::vector<float> out(x.size());
    kernels_.nn.geglu(exec_, rows * dim, x.data(), y.data(), out.data());
    kernels_.nn.soft_cap(exec_, rows * dim - 3, 2.0F, out.data());
    kernels_.nn.sigmoid(exec_, rows * dim - 9, out.data());
    kernels_.nn.add_weighted_rows(exec_, rows, dim - 1, x.data(), nullptr, y.data(), out.data());
    return out;
  });
  expect_equal([&] {
    std::vector<std::int32_t> expert(static_cast<std::size_t>(rows * 4));
    std::vector<float> weight(expert.size());
    kernels_.nn.route(exec_, {rows, dim, 4, true}, x.data(), nullptr, expert.data(), weight.data());
    return weight;
  });
  expect_equal([&] {
    std::vector<float> out = x;
    kernels_.nn.rope(exec_, {rows, rows / 2, 2, dim / 2, dim / 2}, y.data(), out.data(), dim);
    return out;
  });
  for (const float softcap : {0.0F, 1.5F})
    expect_equal([&] {
      AttentionShape shape{1, rows, 2, 1, dim / 2, 0, 0.2F, dim, dim, dim, softcap};
      std::vector<float> out(x.size());
      kernels_.nn.attention(exec_, shape, x.data(), y.data(), x.data(), out.data());
      return out;
    });
  expect_equal([&] {
    const std::vector<std::int32_t> target(3, 5);
    std::vector<double> out(3);
    kernels_.nn.nll(exec_, 3, 5000, x.data(), 5000, target.data(), out.data());
    return out;
  });
}

TEST_F(VectorWidth, DoesNotChangeRotationsAndLatticeCodes) {
  const std::int64_t n = 64, columns = 37;
  const std::vector<std::uint32_t> signs{0x12345678, 0x9ABCDEF0};
  Rotation rotation;
  rotation.n = rotation.block = n;
  rotation.signs = signs.data();
  expect_equal([&] {
    std::vector<float> x = floats_of(n * columns, 10);
    kernels_.rotation.turn_columns(exec_, rotation, false, columns, x.data());
    kernels_.rotation.turn_rows(exec_, rotation, true, columns, x.data());
    return x;
  });
  for (const auto search : {nearest_e8p, nearest_e8})
    expect_equal([&] {
      std::vector<float> x = floats_of(8 * 160, 11);
      std::vector<std::uint16_t> codes(160);
      search(160, 160, x.data(), x.data(), codes.data());
      x.insert(x.end(), codes.begin(), codes.end());
      return x;
    });
}

TEST_F(VectorWidth, DoesNotChangeTrellisCodes) {
  for (const auto& setting : {std::pair{1, 12}, {2, 12}, {3, 13}, {4, 13}, {5, 15}})
    for (const bool keep_seam : {false, true})
      expect_equal([&] {
        const std::vector<float> target = floats_of(70, 12);
        const std::vector<std::int32_t> begin{0, 32, 80};
        std::vector<std::uint8_t> symbols(80, 1);
        std::vector<float> value(80);
        kernels_.trellis.search(exec_, {setting.first, setting.second, TrellisCode::mul1, keep_seam, keep_seam}, 2,
                                begin.data(), 70, target.data(), symbols.data(), value.data());
        return symbols;
      });
}

TEST_F(VectorWidth, DoesNotChangeDerivatives) {
  const NnGradientKernels& nn = kernels_.nn_gradient;
  const std::int64_t rows = 600, dim = 44;
  const std::vector<float> x = floats_of(rows * dim, 7), y = floats_of(rows * dim, 8), d_out = floats_of(rows * dim, 9);
  expect_equal([&] {
    std::vector<float> dx(x.size()), d_weight(static_cast<std::size_t>(dim));
    nn.rms_norm(exec_, rows, dim, x.data(), dim, y.data(), 1e-5F, d_out.data(), dim, false, dx.data(), dim,
                d_weight.data());
    dx.insert(dx.end(), d_weight.begin(), d_weight.end());
    return dx;
  });
  for (const auto gate : {nn.swiglu, nn.geglu})
    expect_equal([&] {
      std::vector<float> d_gate(x.size()), d_up(x.size());
      gate(exec_, rows * dim, x.data(), y.data(), d_out.data(), d_gate.data(), d_up.data());
      nn.soft_cap(exec_, rows * dim - 3, 5.0F, y.data(), d_up.data());
      nn.sigmoid(exec_, rows * dim - 9, y.data(), d_up.data());
      d_gate.insert(d_gate.end(), d_up.begin(), d_up.end());
      return d_gate;
    });
  expect_equal([&] {
    std::vector<float> dx(x.size()), d_weight(static_cast<std::size_t>(rows)), squares(d_weight.size());
    nn.weighted_rows(exec_, rows, dim, x.data(), nullptr, y.data(), d_out.data(), dx.data(), d_weight.data());
    nn.column_sums(exec_, rows, dim, y.data(), dim, dx.data());
    nn.square_sums(exec_, rows, dim, y.data(), dim, squares.data());
    dx.insert(dx.end(), d_weight.begin(), d_weight.end());
    dx.insert(dx.end(), squares.begin(), squares.end());
    return dx;
  });
  // Head sizes that fill register tiles otherwise at each width, and a window.
  for (const std::int64_t head_dim : {22, 14})
    for (const float softcap : {0.0F, 1.5F})
      expect_equal([&] {
        const AttentionShape shape{1, rows, 2, 1, head_dim, head_dim == 14 ? 290 : 0, 0.2F, dim, dim, dim, softcap};
        std::vector<float> out(x.size()), dq(x.size()), dk(x.size()), dv(x.size());
        kernels_.nn.attention(exec_, shape, x.data(), y.data(), x.data(), out.data());
        nn.attention(exec_, shape, x.data(), y.data(), x.data(), out.data(), d_out.data(), dq.data(), dk.data(),
                     dv.data(), nullptr);
        dq.insert(dq.end(), dk.begin(), dk.end());
        dq.insert(dq.end(), dv.begin(), dv.end());
        return dq;
      });
  expect_equal([&] {
    const std::vector<std::int32_t> target(3, 5);
    std::vector<float> logits = x, student = x;
    std::vector<double> nll(3), divergence(3);
    nn.cross_entropy(exec_, 3, 4999, 0.1F, target.data(), logits.data(), 5000, nll.data());
    nn.divergence(exec_, 3, 4999, 0.1F, y.data(), student.data(), 5000, divergence.data());
    std::vector<double> all(logits.begin(), logits.end());
    for (const double value : nll) all.push_back(value);
    for (const double value : divergence) all.push_back(value);
    for (const float value : student) all.push_back(static_cast<double>(value));
    return all;
  });
}

TEST_F(VectorWidth, DoesNotChangeTheDeltaRule) {
  const DeltaRuleKernels& delta = kernels_.delta_rule;
  const DeltaShape shape{1, 40, 40, 2, 4, 19, 37, 4 * 37, 0.2F};
  const std::int64_t keys = 40 * 2 * 19, values = 40 * 4 * 37, channels = 4 * 37;
  const std::vector<float> q = floats_of(keys, 20), v = floats_of(values, 21), d_out = floats_of(values, 22),
                           weight = floats_of(channels * 4, 23);
  std::vector<float> k = floats_of(keys, 24), gates = floats_of(40 * 8, 25);
  for (float& value : k) value *= 0.2F;
  for (float& gate : gates) gate = 1 / (1 + std::exp(-gate));
  expect_equal([&] {
    std::vector<float> convolved(v.size()), out(v.size()), dv(v.size()),
        slopes = d_out, dx(v.size()), d_weight(weight.size()), dq(static_cast<std::size_t>(40 * 4 * 19)), dk(dq.size()),
        d_gates(gates.size());
    delta.conv(exec_, {1, 40, channels, 4}, v.data(), nullptr, weight.data(), convolved.data());
    delta.rule(exec_, shape, q.data(), k.data(), convolved.data(), gates.data(), nullptr, out.data(), nullptr);
    delta.rule_gradient(exec_, shape, q.data(), k.data(), convolved.data(), gates.data(), d_out.data(), dq.data(),
                        dk.data(), dv.data(), d_gates.data());
    delta.conv_gradient(exec_, {1, 40, channels, 4}, v.data(), weight.data(), slopes.data(), dx.data(),
                        d_weight.data());
    for (const auto& more : {dq, dk, dv, d_gates, dx, d_weight}) out.insert(out.end(), more.begin(), more.end());
    return out;
  });
}

}  // namespace
}  // namespace voronoi::kernels
