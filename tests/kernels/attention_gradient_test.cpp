// Attention's derivative against its formula in fp64, which is held against differences.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <ostream>
#include <vector>

#include "kernels/gradients.h"

namespace voronoi::kernels {
namespace {

struct AttentionGradients {
  Doubles dq, dk, dv;
};

/// The definition, in fp64: rows of q, k, v with the strides of `s`. Returns sum(d_out * out).
double attention_definition(const AttentionShape& s, const Doubles& q, const Doubles& k, const Doubles& v,
                            const std::vector<float>& d_out, AttentionGradients* gradients) {
  double loss = 0;
  const double scale = static_cast<double>(s.scale), cap = static_cast<double>(s.softcap);
  for (std::int64_t sequence = 0; sequence < s.n_sequences; ++sequence)
    for (std::int64_t h = 0; h < s.n_heads; ++h)
      for (std::int64_t i = 0; i < s.n_tokens; ++i) {
        const std::int64_t kv = h / (s.n_heads / s.n_kv_heads),
                           first = s.window > 0 ? std::max<std::int64_t>(0, i - s.window + 1) : 0;
        const auto q_at = static_cast<std::size_t>((sequence * s.n_tokens + i) * s.ld_q + h * s.head_dim),
                   out_at = static_cast<std::size_t>((sequence * s.n_tokens + i) * s.ld_out + h * s.head_dim),
                   dim = static_cast<std::size_t>(s.head_dim);
        const auto kv_at = [&](std::int64_t j) {
          return static_cast<std::size_t>((sequence * s.n_tokens + j) * s.ld_kv + kv * s.head_dim);
        };
        Doubles share, slope, d_share;
        double largest = -1e300, sum = 0, mean = 0;
        for (std::int64_t j = first; j <= i; ++j) {
          double score = 0, d = 0;
          for (std::size_t c = 0; c < dim; ++c) {
            score += scale * q[q_at + c] * k[kv_at(j) + c];
            d += static_cast<double>(d_out[out_at + c]) * v[kv_at(j) + c];
          }
          slope.push_back(cap > 0 ? 1 / std::pow(std::cosh(score / cap), 2) : 1);
          share.push_back(cap > 0 ? cap * std::tanh(score / cap) : score);
          d_share.push_back(d);
          largest = std::max(largest, share.back());
        }
        for (double& value : share) sum += value = std::exp(value - largest);
        for (std::size_t j = 0; j < share.size(); ++j) mean += d_share[j] * (share[j] /= sum);
        loss += mean;
        for (std::size_t j = 0; j < share.size(); ++j) {
          const std::size_t at = kv_at(first + static_cast<std::int64_t>(j));
          const double d_score = share[j] * (d_share[j] - mean) * slope[j] * scale;
          for (std::size_t c = 0; gradients != nullptr && c < dim; ++c) {
            gradients->dq[q_at + c] += d_score * k[at + c];
            gradients->dk[at + c] += d_score * q[q_at + c];
            gradients->dv[at + c] += share[j] * static_cast<double>(d_out[out_at + c]);
          }
        }
      }
  return loss;
}

class AttentionGradient : public NnGradient, public ::testing::WithParamInterface<AttentionCase> {};

TEST_P(AttentionGradient, EqualsTheDefinition) {
  const AttentionShape s = shape_of(GetParam(), false);
  const std::int64_t n_rows = s.n_sequences * s.n_tokens;
  const std::vector<float> q = random_floats(n_rows * s.ld_q, 22), k = random_floats(n_rows * s.ld_kv, 23),
                           v = random_floats(n_rows * s.ld_kv, 24), d_out = random_floats(n_rows * s.ld_out, 25);
  std::vector<float> out(d_out.size()), dq(q.size()), dk(k.size()), dv(v.size());
  cpu().nn.attention(exec_, s, q.data(), k.data(), v.data(), out.data());
  nn_.attention(exec_, s, q.data(), k.data(), v.data(), out.data(), d_out.data(), dq.data(), dk.data(), dv.data(),
                nullptr);
  AttentionGradients expected{Doubles(q.size()), Doubles(k.size()), Doubles(v.size())};
  attention_definition(s, widened(q), widened(k), widened(v), d_out, &expected);
  expect_close(dq, expected.dq, 3e-6, 1.0);
  expect_close(dk, expected.dk, 3e-6, 1.0);
  expect_close(dv, expected.dv, 3e-6, 1.0);
  std::vector<float> dq_alone(q.size()), dk_alone(k.size()), dv_alone(v.size());
  nn_.attention(single_, s, q.data(), k.data(), v.data(), out.data(), d_out.data(), dq_alone.data(), dk_alone.data(),
                dv_alone.data(), nullptr);
  EXPECT_EQ(dq, dq_alone) << "depends on the number of threads";
  EXPECT_EQ(dk, dk_alone);
  EXPECT_EQ(dv, dv_alone);
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionGradient,
                         ::testing::Values(AttentionCase{1, 1, 1, 1, 2, 0}, AttentionCase{3, 7, 4, 2, 10, 0},
                                           AttentionCase{2, 40, 7, 1, 22, 11}, AttentionCase{1, 257, 2, 1, 64, 0},
                                           AttentionCase{2, 300, 3, 3, 8, 0}, AttentionCase{1, 600, 2, 2, 16, 37},
                                           AttentionCase{1, 700, 1, 1, 128, 256}, AttentionCase{1, 513, 2, 1, 18, 300},
                                           AttentionCase{1, 300, 1, 1, 34, 1}, AttentionCase{1, 70, 1, 1, 300, 0},
                                           AttentionCase{2, 300, 4, 2, 20, 0, 1.5F},
                                           AttentionCase{1, 600, 2, 1, 16, 37, 30.0F},
                                           AttentionCase{1, 2900, 1, 1, 4, 0}));

TEST_F(NnGradient, AttentionsFormulaIsThatOfDifferences) {
  const AttentionShape s = shape_of({2, 6, 4, 2, 3, 4, 1.5F}, false);
  const std::int64_t n_rows = s.n_sequences * s.n_tokens;
  const Doubles q = widened(random_floats(n_rows * s.ld_q, 26)), k = widened(random_floats(n_rows * s.ld_kv, 27)),
                v = widened(random_floats(n_rows * s.ld_kv, 28));
  const std::vector<float> d_out = random_floats(n_rows * s.ld_out, 29);
  AttentionGradients formula{Doubles(q.size()), Doubles(k.size()), Doubles(v.size())};
  attention_definition(s, q, k, v, d_out, &formula);
  const auto expect_equal = [](const Doubles& a, const Doubles& b) {
    for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-9) << i;
  };
  const auto loss = [&](const Doubles& a, const Doubles& b, const Doubles& c) {
    return attention_definition(s, a, b, c, d_out, nullptr);
  };
  expect_equal(formula.dq, differences(q, [&](const Doubles& at) { return loss(at, k, v); }));
  expect_equal(formula.dk, differences(k, [&](const Doubles& at) { return loss(q, at, v); }));
  expect_equal(formula.dv, differences(v, [&](const Doubles& at) { return loss(q, k, at); }));
}

TEST_F(NnGradient, AttentionInColumnsOfOneMatrix) {
  const AttentionCase c{2, 90, 4, 2, 12, 0};
  const AttentionShape fused = shape_of(c, true), apart = shape_of(c, false);
  const std::int64_t n_rows = 180, q_dim = 48, kv_dim = 24;
  const std::vector<float> qkv = random_floats(n_rows * fused.ld_q, 30),
                           d_out = random_floats(n_rows * fused.ld_out, 31);
  std::vector<float> q(static_cast<std::size_t>(n_rows * apart.ld_q)),
      k(static_cast<std::size_t>(n_rows * apart.ld_kv)), v(k.size()), dq(q.size()), dk(k.size()), dv(k.size()),
      out(d_out.size()), d_qkv(qkv.size());
  const auto copy = [&](const std::vector<float>& from, std::int64_t ld_from, std::int64_t offset, std::int64_t width,
                        std::vector<float>& to, std::int64_t ld_to) {
    for (std::int64_t r = 0; r < n_rows; ++r)
      std::copy_n(from.begin() + r * ld_from + offset, width, to.begin() + r * ld_to);
  };
  copy(qkv, fused.ld_q, 0, q_dim, q, apart.ld_q);
  copy(qkv, fused.ld_q, q_dim, kv_dim, k, apart.ld_kv);
  copy(qkv, fused.ld_q, q_dim + kv_dim, kv_dim, v, apart.ld_kv);
  cpu().nn.attention(exec_, apart, q.data(), k.data(), v.data(), out.data());
  nn_.attention(exec_, apart, q.data(), k.data(), v.data(), out.data(), d_out.data(), dq.data(), dk.data(), dv.data(),
                nullptr);
  nn_.attention(exec_, fused, qkv.data(), qkv.data() + q_dim, qkv.data() + q_dim + kv_dim, out.data(), d_out.data(),
                d_qkv.data(), d_qkv.data() + q_dim, d_qkv.data() + q_dim + kv_dim, nullptr);
  std::vector<float> expected(qkv.size());
  for (std::int64_t r = 0; r < n_rows; ++r) {
    std::copy_n(dq.begin() + r * apart.ld_q, q_dim, expected.begin() + r * fused.ld_q);
    std::copy_n(dk.begin() + r * apart.ld_kv, kv_dim, expected.begin() + r * fused.ld_q + q_dim);
    std::copy_n(dv.begin() + r * apart.ld_kv, kv_dim, expected.begin() + r * fused.ld_q + q_dim + kv_dim);
  }
  EXPECT_EQ(d_qkv, expected);
}

}  // namespace
}  // namespace voronoi::kernels
