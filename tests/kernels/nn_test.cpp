#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "core/thread_pool.h"
#include "kernels/gradients.h"
#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

class Nn : public ::testing::Test {
 protected:
  core::ThreadPool pool_{2}, single_pool_{1};
  Exec exec_{&pool_, nullptr}, single_{&single_pool_, nullptr};
  const NnKernels& nn_ = cpu().nn;
};

TEST_F(Nn, RmsNormFollowsItsDefinitionAtEveryWidth) {
  for (const std::int64_t dim : {1, 7, 8, 16, 17, 54, 576}) {
    const std::int64_t n_rows = 5, ldx = dim + 3, ld_out = dim + 1;
    const std::vector<float> x = random_floats(n_rows * ldx, 1), weight = random_floats(dim, 2);
    std::vector<float> out(static_cast<std::size_t>(n_rows * ld_out), -7.0F);
    const float eps = 0.003F;
    nn_.rms_norm(exec_, n_rows, dim, x.data(), ldx, weight.data(), eps, out.data(), ld_out);
    for (std::int64_t r = 0; r < n_rows; ++r) {
      double squares = 0;
      for (std::int64_t i = 0; i < dim; ++i)
        squares += std::pow(static_cast<double>(x[static_cast<std::size_t>(r * ldx + i)]), 2);
      const double scale = 1 / std::sqrt(squares / static_cast<double>(dim) + static_cast<double>(eps));
      for (std::int64_t i = 0; i < dim; ++i) {
        const double expected = static_cast<double>(x[static_cast<std::size_t>(r * ldx + i)]) * scale *
                                static_cast<double>(weight[static_cast<std::size_t>(i)]);
        EXPECT_NEAR(out[static_cast<std::size_t>(r * ld_out + i)], expected, 1e-6 * (1 + std::abs(expected))) << dim;
      }
      EXPECT_EQ(out[static_cast<std::size_t>(r * ld_out + dim)], -7.0F) << "wrote between rows";
    }
  }
}

TEST_F(Nn, RmsNormWorksInPlace) {
  const std::int64_t dim = 21;
  const std::vector<float> x = random_floats(3 * dim, 3), weight = random_floats(dim, 4);
  std::vector<float> apart(x.size()), in_place = x;
  nn_.rms_norm(exec_, 3, dim, x.data(), dim, weight.data(), 1e-5F, apart.data(), dim);
  nn_.rms_norm(exec_, 3, dim, in_place.data(), dim, weight.data(), 1e-5F, in_place.data(), dim);
  EXPECT_EQ(apart, in_place);
}

TEST_F(Nn, RopeTurnsPairsOfHalves) {
  for (const std::int64_t head_dim : {2, 8, 22, 64}) {
    const std::int64_t n_tokens = 5, n_rows = 10, n_heads = 3, half = head_dim / 2;
    const std::vector<float> table = random_floats(n_tokens * head_dim, 5),
                             x = random_floats(n_rows * n_heads * head_dim, 6);
    std::vector<float> turned = x;
    nn_.rope(exec_, {n_rows, n_tokens, n_heads, head_dim, head_dim}, table.data(), turned.data(), n_heads * head_dim);
    for (std::int64_t r = 0; r < n_rows; ++r)
      for (std::int64_t h = 0; h < n_heads; ++h)
        for (std::int64_t i = 0; i < half; ++i) {
          const auto low = static_cast<std::size_t>((r * n_heads + h) * head_dim + i),
                     high = low + static_cast<std::size_t>(half);
          const double c = static_cast<double>(table[static_cast<std::size_t>(r % n_tokens * head_dim + i)]);
          const double s = static_cast<double>(table[static_cast<std::size_t>(r % n_tokens * head_dim + half + i)]);
          const double a = static_cast<double>(x[low]), b = static_cast<double>(x[high]);
          EXPECT_NEAR(turned[low], a * c - b * s, 1e-5);
          EXPECT_NEAR(turned[high], b * c + a * s, 1e-5);
        }
  }
}

TEST_F(Nn, SwigluHoldsFromTinyToHugeGates) {
  std::vector<float> gate{-1e30F, -200, -104, -88, -20, -1, -1e-20F, 0, 1e-20F, 1, 20, 88, 104, 200, 1e30F};
  const std::vector<float> more = random_floats(1000, 7, 4.0F);
  gate.insert(gate.end(), more.begin(), more.end());
  const std::vector<float> up = random_floats(static_cast<std::int64_t>(gate.size()), 8);
  std::vector<float> out(gate.size());
  nn_.swiglu(exec_, static_cast<std::int64_t>(gate.size()), gate.data(), up.data(), out.data());
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double g = static_cast<double>(gate[i]);
    const double expected = g / (1 + std::exp(-g)) * static_cast<double>(up[i]);
    EXPECT_NEAR(out[i], expected, 1e-6 * std::abs(expected) + 1e-6) << gate[i];
  }
  std::vector<float> in_place = gate;
  nn_.swiglu(exec_, static_cast<std::int64_t>(gate.size()), in_place.data(), up.data(), in_place.data());
  EXPECT_EQ(in_place, out);
}

TEST_F(Nn, AddAndAddBiasAreElementwise) {
  const std::int64_t n = 40003;
  const std::vector<float> x = random_floats(n, 9), y = random_floats(n, 10);
  std::vector<float> sum = x;
  nn_.add(exec_, n, y.data(), sum.data());
  for (std::size_t i = 0; i < sum.size(); ++i) ASSERT_EQ(sum[i], x[i] + y[i]);
  const std::int64_t dim = 13, rows = 4, ld = 15;
  std::vector<float> biased = x;
  nn_.add_bias(exec_, rows, dim, y.data(), biased.data(), ld);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < ld; ++c) {
      const auto at = static_cast<std::size_t>(r * ld + c);
      EXPECT_EQ(biased[at], c < dim ? x[at] + y[static_cast<std::size_t>(c)] : x[at]);
    }
}

TEST_F(Nn, NllEqualsLogSumExpMinusTarget) {
  for (const std::int64_t vocab : {1, 15, 16, 157, 4099}) {
    const std::int64_t n_rows = 3, ld = vocab + 2;
    std::vector<float> logits = random_floats(n_rows * ld, 11, 5.0F);
    // A large offset must not overflow.
    for (std::int64_t i = 0; i < ld; ++i) logits[static_cast<std::size_t>(i)] += 3000.0F;
    const std::vector<std::int32_t> target{0, static_cast<std::int32_t>(vocab - 1),
                                           static_cast<std::int32_t>(vocab / 2)};
    std::vector<double> nll(3);
    nn_.nll(exec_, n_rows, vocab, logits.data(), ld, target.data(), nll.data());
    for (std::int64_t r = 0; r < n_rows; ++r) {
      const float* row = logits.data() + r * ld;
      const double largest = static_cast<double>(*std::max_element(row, row + vocab));
      double sum = 0;
      for (std::int64_t j = 0; j < vocab; ++j) sum += std::exp(static_cast<double>(row[j]) - largest);
      EXPECT_NEAR(nll[static_cast<std::size_t>(r)],
                  std::log(sum) + largest - static_cast<double>(row[target[static_cast<std::size_t>(r)]]), 1e-11);
    }
  }
}

TEST_F(Nn, ArgmaxIsTheFirstOfTheLargest) {
  for (const std::int64_t vocab : {1, 15, 16, 157, 4099}) {
    const std::int64_t n_rows = 4, ld = vocab + 2;
    std::vector<float> logits = random_floats(n_rows * ld, 12, 5.0F);
    const auto at = [&](std::int64_t row, std::int64_t place) -> float& {
      return logits[static_cast<std::size_t>(row * ld + place)];
    };
    at(1, vocab - 1) = 50;  // the last, and behind it what is no part of the row
    at(1, vocab) = 60;
    at(2, vocab / 3) = at(2, vocab / 2) = at(2, vocab - 1) = 50;
    for (std::int64_t i = 0; i < vocab; ++i) at(3, i) = -1000;
    std::vector<std::int32_t> place(4);
    nn_.argmax(exec_, n_rows, vocab, logits.data(), ld, place.data());
    const float* first = logits.data();
    EXPECT_EQ(place[0], std::max_element(first, first + vocab) - first);
    EXPECT_EQ(place[1], vocab - 1);
    EXPECT_EQ(place[2], vocab / 3);
    EXPECT_EQ(place[3], 0);
  }
}

TEST_F(Nn, GegluHoldsFromTinyToHugeGates) {
  std::vector<float> gate{-1e30F, -200, -20, -6, -1, -1e-20F, 0, 1e-20F, 1, 6, 20, 200, 1e30F};
  const std::vector<float> more = random_floats(1000, 21, 2.0F);
  gate.insert(gate.end(), more.begin(), more.end());
  const auto n = static_cast<std::int64_t>(gate.size());
  const std::vector<float> up = random_floats(n, 22);
  std::vector<float> out(gate.size()), in_place = gate;
  nn_.geglu(exec_, n, gate.data(), up.data(), out.data());
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double g = static_cast<double>(gate[i]);
    const double expected = 0.5 * g * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (g + 0.044715 * g * g * g))) *
                            static_cast<double>(up[i]);
    EXPECT_NEAR(out[i], expected, 1e-6 * std::abs(expected) + 1e-6) << gate[i];
  }
  nn_.geglu(exec_, n, in_place.data(), up.data(), in_place.data());
  EXPECT_EQ(in_place, out);
}

TEST_F(Nn, ScaleSoftCapAndSigmoidAreElementwise) {
  std::vector<float> x{-1e30F, -100, -1, -1e-5F, 0, 1e-5F, 0.25F, 1, 3, 100, 1e30F};
  const std::vector<float> more = random_floats(40003, 23, 5.0F);
  x.insert(x.end(), more.begin(), more.end());
  const auto n = static_cast<std::int64_t>(x.size());
  std::vector<float> scaled = x, capped = x, squashed = x;
  nn_.scale(exec_, n, 0.3F, scaled.data());
  nn_.soft_cap(exec_, n, 3.0F, capped.data());
  nn_.sigmoid(exec_, n, squashed.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double value = static_cast<double>(x[i]);
    ASSERT_EQ(scaled[i], x[i] * 0.3F);
    ASSERT_NEAR(capped[i], 3 * std::tanh(value / 3), 1e-6 * std::abs(value) + 1e-12) << x[i];
    ASSERT_LE(std::abs(capped[i]), 3.0F);
    ASSERT_NEAR(squashed[i], 1 / (1 + std::exp(-value)), 1e-6) << x[i];
  }
}

TEST_F(Nn, RouteChoosesTheLargestAndTheLowerOfEquals) {
  const float log2 = std::log(2.0F), log4 = std::log(4.0F);
  const std::vector<float> logits{0, log4, log2, 0, log2, 7, 7, 7, 7, 7};
  std::vector<std::int32_t> expert(6);
  std::vector<float> weight(6);
  nn_.route(exec_, {2, 5, 3, false}, logits.data(), nullptr, expert.data(), weight.data());
  EXPECT_EQ(expert, (std::vector<std::int32_t>{1, 2, 4, 0, 1, 2}));
  const std::vector<float> plain{0.4F, 0.2F, 0.2F, 0.2F, 0.2F, 0.2F}, whole{0.5F, 0.25F, 0.25F};
  for (std::size_t i = 0; i < 6; ++i) EXPECT_NEAR(weight[i], plain[i], 1e-7);
  nn_.route(exec_, {2, 5, 3, true}, logits.data(), nullptr, expert.data(), weight.data());
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(weight[i], whole[i], 1e-7);
    EXPECT_NEAR(weight[3 + i], 1.0 / 3, 1e-7);
  }
}

TEST_F(Nn, RouteEqualsTheDefinitionForManyExperts) {
  const std::int64_t n_rows = 700, n_experts = 61, top_k = 6;
  const std::vector<float> logits = random_floats(n_rows * n_experts, 24, 3.0F);
  std::vector<std::int32_t> expert(static_cast<std::size_t>(n_rows * top_k)), alone(expert.size());
  std::vector<float> weight(expert.size()), alone_weight(expert.size());
  nn_.route(exec_, {n_rows, n_experts, top_k, true}, logits.data(), nullptr, expert.data(), weight.data());
  nn_.route(single_, {n_rows, n_experts, top_k, true}, logits.data(), nullptr, alone.data(), alone_weight.data());
  EXPECT_EQ(expert, alone);
  EXPECT_EQ(weight, alone_weight);
  for (std::int64_t r = 0; r < n_rows; ++r) {
    std::vector<std::pair<float, std::int32_t>> order;
    for (std::int32_t e = 0; e < n_experts; ++e)
      order.emplace_back(-logits[static_cast<std::size_t>(r * n_experts + e)], e);
    std::sort(order.begin(), order.end());
    double sum = 0;
    for (std::size_t j = 0; j < 6; ++j) sum += std::exp(-static_cast<double>(order[j].first));
    for (std::size_t j = 0; j < 6; ++j) {
      const std::size_t at = static_cast<std::size_t>(r * top_k) + j;
      ASSERT_EQ(expert[at], order[j].second);
      ASSERT_NEAR(weight[at], std::exp(-static_cast<double>(order[j].first)) / sum, 1e-6);
    }
  }
}

TEST_F(Nn, RouteKeepsToTheExpertsWhateverTheLogits) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits{nan, 1, 2, 1, nan, 2, nan, nan, nan, -infinity, -infinity, 0};
  std::vector<std::int32_t> expert(8);
  std::vector<float> weight(8);
  nn_.route(exec_, {4, 3, 2, true}, logits.data(), nullptr, expert.data(), weight.data());
  for (std::size_t r = 0; r < 4; ++r) {
    EXPECT_NE(expert[2 * r], expert[2 * r + 1]);
    for (std::size_t j = 0; j < 2; ++j) {
      EXPECT_TRUE(expert[2 * r + j] >= 0 && expert[2 * r + j] < 3);
      EXPECT_EQ(std::isnan(weight[2 * r + j]), r < 3);
    }
  }
  EXPECT_EQ(weight[6], 1.0F);
  EXPECT_EQ(weight[7], 0.0F);
}

TEST_F(Nn, AddWeightedRowsAddsToTheNamedRows) {
  const std::vector<float> x{1, 2, 3, 10, 20, 30}, weight{0.5F, 2.0F};
  const std::vector<std::int32_t> row{2, 0};
  std::vector<float> out{100, 100, 100, 200, 200, 200, 300, 300, 300};
  nn_.add_weighted_rows(exec_, 2, 3, x.data(), row.data(), weight.data(), out.data());
  EXPECT_EQ(out, (std::vector<float>{120, 140, 160, 200, 200, 200, 300.5F, 301, 301.5F}));
  nn_.add_weighted_rows(exec_, 2, 3, x.data(), nullptr, weight.data(), out.data());
  EXPECT_EQ(out, (std::vector<float>{120.5F, 141, 161.5F, 220, 240, 260, 300.5F, 301, 301.5F}));
}

class Attention : public Nn, public ::testing::WithParamInterface<AttentionCase> {
 protected:
  AttentionShape shape() const { return shape_of(GetParam(), false); }
};

/// The definition, in fp64, with the whole row of scores.
void reference_attention(const AttentionShape& s, const float* q, const float* k, const float* v,
                         std::vector<double>& out) {
  for (std::int64_t sequence = 0; sequence < s.n_sequences; ++sequence)
    for (std::int64_t h = 0; h < s.n_heads; ++h)
      for (std::int64_t i = 0; i < s.n_tokens; ++i) {
        const std::int64_t kv = h / (s.n_heads / s.n_kv_heads),
                           first = s.window > 0 ? std::max<std::int64_t>(0, i - s.window + 1) : 0;
        const float* query = q + (sequence * s.n_tokens + i) * s.ld_q + h * s.head_dim;
        std::vector<double> weight;
        for (std::int64_t j = first; j <= i; ++j) {
          const float* key = k + (sequence * s.n_tokens + j) * s.ld_kv + kv * s.head_dim;
          double dot = 0;
          for (std::int64_t c = 0; c < s.head_dim; ++c)
            dot += static_cast<double>(query[c]) * static_cast<double>(key[c]);
          const double cap = static_cast<double>(s.softcap), score = dot * static_cast<double>(s.scale);
          weight.push_back(cap > 0 ? cap * std::tanh(score / cap) : score);
        }
        const double largest = *std::max_element(weight.begin(), weight.end());
        double sum = 0;
        for (double& w : weight) sum += w = std::exp(w - largest);
        for (std::int64_t c = 0; c < s.head_dim; ++c) {
          double value = 0;
          for (std::int64_t j = first; j <= i; ++j)
            value += weight[static_cast<std::size_t>(j - first)] *
                     static_cast<double>(v[(sequence * s.n_tokens + j) * s.ld_kv + kv * s.head_dim + c]);
          out[static_cast<std::size_t>((sequence * s.n_tokens + i) * s.ld_out + h * s.head_dim + c)] = value / sum;
        }
      }
}

TEST_P(Attention, EqualsTheDefinition) {
  const AttentionShape s = shape();
  const std::int64_t n_rows = s.n_sequences * s.n_tokens;
  const std::vector<float> q = random_floats(n_rows * s.ld_q, 12), k = random_floats(n_rows * s.ld_kv, 13),
                           v = random_floats(n_rows * s.ld_kv, 14);
  std::vector<float> out(static_cast<std::size_t>(n_rows * s.ld_out), 99.0F), alone = out;
  std::vector<double> expected(out.size(), 99.0);
  nn_.attention(exec_, s, q.data(), k.data(), v.data(), out.data());
  reference_attention(s, q.data(), k.data(), v.data(), expected);
  for (std::size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], 3e-6) << "at " << i;
  nn_.attention(single_, s, q.data(), k.data(), v.data(), alone.data());
  EXPECT_EQ(out, alone) << "depends on the number of threads";
}

INSTANTIATE_TEST_SUITE_P(Shapes, Attention,
                         ::testing::Values(AttentionCase{1, 1, 1, 1, 2, 0}, AttentionCase{3, 7, 4, 2, 10, 0},
                                           AttentionCase{2, 40, 7, 1, 22, 11}, AttentionCase{1, 257, 2, 1, 64, 0},
                                           AttentionCase{2, 300, 3, 3, 8, 0}, AttentionCase{1, 600, 2, 2, 16, 37},
                                           AttentionCase{1, 700, 1, 1, 128, 256}, AttentionCase{1, 513, 2, 1, 18, 300},
                                           AttentionCase{1, 300, 1, 1, 34, 1}, AttentionCase{1, 70, 1, 1, 300, 0},
                                           AttentionCase{2, 300, 4, 2, 20, 0, 1.5F},
                                           AttentionCase{1, 600, 2, 1, 16, 37, 30.0F}));

TEST_F(Nn, AttentionSurvivesScoresFarApart) {
  // Scores rise by 60 a key: all weight lies on the last one, and exp() of the raw score would overflow.
  AttentionShape shape{1, 600, 1, 1, 2, 0, 1.0F, 2, 2, 2};
  std::vector<float> q(1200), k(1200), v(1200), out(1200);
  for (std::size_t i = 0; i < 600; ++i) {
    q[2 * i] = 1;
    k[2 * i] = 60.0F * static_cast<float>(i);
    v[2 * i] = static_cast<float>(i);
  }
  nn_.attention(exec_, shape, q.data(), k.data(), v.data(), out.data());
  for (std::size_t i = 0; i < 600; ++i) ASSERT_FLOAT_EQ(out[2 * i], static_cast<float>(i));
  // And falling: the first key keeps it all.
  for (std::size_t i = 0; i < 600; ++i) {
    k[2 * i] = -60.0F * static_cast<float>(i);
    v[2 * i] = static_cast<float>(i) + 5;
  }
  nn_.attention(exec_, shape, q.data(), k.data(), v.data(), out.data());
  for (std::size_t i = 0; i < 600; ++i) ASSERT_FLOAT_EQ(out[2 * i], 5.0F);
}

TEST_F(Nn, AttentionOfASequenceDoesNotDependOnTheOthers) {
  AttentionShape shape{3, 90, 2, 1, 12, 0, 0.3F, 24, 12, 24};
  const std::vector<float> q = random_floats(3 * 90 * 24, 15), k = random_floats(3 * 90 * 12, 16),
                           v = random_floats(3 * 90 * 12, 17);
  std::vector<float> together(q.size()), alone(90 * 24);
  nn_.attention(exec_, shape, q.data(), k.data(), v.data(), together.data());
  shape.n_sequences = 1;
  nn_.attention(exec_, shape, q.data() + 90 * 24, k.data() + 90 * 12, v.data() + 90 * 12, alone.data());
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + 90 * 24));
}

TEST_F(Nn, AttentionKeepsToPrecedingTokens) {
  AttentionShape shape{1, 300, 1, 1, 16, 0, 0.3F, 16, 16, 16};
  const std::vector<float> q = random_floats(300 * 16, 18);
  std::vector<float> k = random_floats(300 * 16, 19), v = random_floats(300 * 16, 20), before(q.size()),
                     after(q.size());
  nn_.attention(exec_, shape, q.data(), k.data(), v.data(), before.data());
  for (std::size_t i = 271 * 16; i < k.size(); ++i) k[i] = v[i] = 1e6F;
  nn_.attention(exec_, shape, q.data(), k.data(), v.data(), after.data());
  EXPECT_TRUE(std::equal(before.begin(), before.begin() + 271 * 16, after.begin()));
  EXPECT_NE(before.back(), after.back());
}

}  // namespace
}  // namespace voronoi::kernels
