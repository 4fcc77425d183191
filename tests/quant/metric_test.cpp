// Which metric is chosen of what calibration offers.
#include "quant/metric.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace voronoi::quant {
namespace {

constexpr std::int64_t kN = 24;

/// E[s x x^T] of `rows` Gaussian rows, whose first channels are `spread` times the others; s is 1, or a heavy tail.
std::vector<float> moment(std::int64_t rows, std::uint64_t seed, double spread = 4, bool heavy = false) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<double> sum(static_cast<std::size_t>(kN * (kN + 1) / 2));
  for (std::int64_t row = 0; row < rows; ++row) {
    std::vector<double> x;
    for (std::int64_t i = 0; i < kN; ++i) x.push_back((i < 6 ? spread : 1) * normal(engine));
    const double weight = heavy ? std::exp(3 * normal(engine)) : 1.0;
    std::size_t at = 0;
    for (std::int64_t a = 0; a < kN; ++a)
      for (std::int64_t b = 0; b <= a; ++b)
        sum[at++] +=
            weight * x[static_cast<std::size_t>(a)] * x[static_cast<std::size_t>(b)] / static_cast<double>(rows);
  }
  return {sum.begin(), sum.end()};
}

std::vector<float> scaled(std::vector<float> lower, float by) {
  for (float& value : lower) value *= by;
  return lower;
}

double trace_of(const std::vector<float>& lower) {
  double sum = 0;
  for (std::int64_t i = 0; i < kN; ++i) sum += static_cast<double>(lower[static_cast<std::size_t>(i * (i + 3) / 2)]);
  return sum;
}

/// InputMoments that own what they show.
struct Moments {
  std::vector<float> plain, guided;
  double effective_tokens = 0;
  std::vector<float> held_out = {}, held_out_guided = {};
};

class MetricTest : public ::testing::Test {
 protected:
  Metric choose(const Moments& of, bool keep_apart = true, double damping = 0.01) {
    InputMoments moments;
    moments.plain = of.plain;
    moments.guided = of.guided;
    moments.effective_tokens = of.effective_tokens;
    moments.tokens = moments.held_out_tokens = 100;
    moments.held_out_plain = of.held_out;
    moments.held_out_guided = of.held_out_guided;
    return choose_metric(context_, kN, moments, damping, keep_apart);
  }
  backend::Context context_{backend::Device::cpu, 2};
};

TEST_F(MetricTest, TheCostOfAMetricElsewhereIsLeastAtThatMetricAndIndifferentToItsUnit) {
  const std::vector<float> here = moment(4000, 1, 4), there = moment(4000, 2, 0.3);
  const double own = *log_cost_elsewhere(context_, kN, there, 0, there);
  EXPECT_LT(own, *log_cost_elsewhere(context_, kN, here, 0, there));
  EXPECT_NEAR(own, *log_cost_elsewhere(context_, kN, scaled(there, 1e-5F), 0, there), 1e-4);
  // A diagonal by hand: tr(V H^-1) / n det(H)^(1/n) with H = diag(1, 4), V = diag(2, 2).
  const std::vector<float> h{1, 0, 4}, v{2, 0, 2}, indefinite{1, 2, 1};
  EXPECT_NEAR(*log_cost_elsewhere(context_, 2, h, 0, v), std::log((2 + 0.5) / 2 * 2), 1e-12);
  EXPECT_FALSE(log_cost_elsewhere(context_, 2, indefinite, 0, v).has_value());
}

// H = tridiag(-1, 2, -1) has the inverse (i + 1) (n - j) / (n + 1) for i <= j, and the determinant n + 1. Larger than
// the part of an inverse that is made at a time, and no multiple of it.
TEST_F(MetricTest, TheCostTakesTheWholeInverse) {
  constexpr std::int64_t kOrder = 600;
  std::mt19937_64 engine(5);
  std::uniform_real_distribution<float> uniform(0.5F, 1);
  std::vector<float> h, v;
  double trace = 0;
  for (std::int64_t j = 0; j < kOrder; ++j)
    for (std::int64_t i = 0; i <= j; ++i) {
      h.push_back(i == j ? 2.0F : i == j - 1 ? -1.0F : 0.0F);
      v.push_back(uniform(engine));
      const double inverse = static_cast<double>(i + 1) * static_cast<double>(kOrder - j) / (kOrder + 1);
      trace += (i == j ? 1 : 2) * static_cast<double>(v.back()) * inverse;
    }
  EXPECT_NEAR(*log_cost_elsewhere(context_, kOrder, h, 0, v), std::log(trace / kOrder) + std::log(kOrder + 1) / kOrder,
              1e-9);
}

TEST_F(MetricTest, AGuidedMomentOfManyTokensIsBelievedByHalfAndOneOfAFewIsNot) {
  const std::vector<float> plain = moment(4000, 1, 4), guided = scaled(moment(4000, 2, 0.3), 1e-6F),
                           held_out = moment(4000, 3, 4), held_out_guided = scaled(moment(4000, 4, 0.3), 1e-6F);
  EXPECT_EQ(choose({plain, guided, 4000, held_out, held_out_guided}).guided_share, kGuidedTrust);
  // What three tokens say of the loss does not hold for others.
  EXPECT_LT(choose({plain, scaled(moment(3, 4, 4, true), 1e-6F), 2, held_out, held_out_guided}).guided_share, 0.5);
  // The others' plain moment alone is best met by the plain one.
  EXPECT_EQ(choose({plain, guided, 4000, held_out, {}}).guided_share, 0);
}

TEST_F(MetricTest, OfFewTokensMoreDampingHelps) {
  EXPECT_EQ(choose({moment(20'000, 1, 8), {}, 0, moment(20'000, 2, 8)}).damping, 0.01);
  EXPECT_GT(choose({moment(30, 1, 1), {}, 0, moment(4000, 2, 1)}).damping, 0.02);
}

TEST_F(MetricTest, WithoutHeldOutTokensTheEffectiveOnesDecide) {
  const std::vector<float> plain = moment(500, 1), guided = moment(500, 2);
  EXPECT_NEAR(choose({plain, guided, 4.0 * kN, {}, {}}).guided_share, kGuidedTrust / 2, 1e-12);
  EXPECT_LT(choose({plain, guided, 3, {}}).guided_share, 0.05);
  EXPECT_EQ(choose({plain, {}, 0, {}}).lower, plain);
  EXPECT_EQ(choose({plain, std::vector<float>(plain.size()), 0, {}}).lower, plain);
}

TEST_F(MetricTest, TokensThatJudgeNoMethodArePutBack) {
  const std::vector<float> plain = moment(500, 1), held_out = moment(500, 2);
  const Metric apart = choose({plain, {}, 0, held_out}), together = choose({plain, {}, 0, held_out}, false);
  EXPECT_EQ(apart.lower, plain);
  EXPECT_EQ(together.damping, apart.damping);
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(together.lower[i], (plain[i] + held_out[i]) / 2, 1e-5F);
}

TEST_F(MetricTest, HeldOutIsBroughtToTheMetricsUnit) {
  const std::vector<float> held_out = scaled(moment(500, 2), 1e-7F);
  const Metric metric = choose({moment(500, 1), {}, 0, held_out, {}});
  EXPECT_NEAR(trace_of(metric.held_out) / trace_of(metric.lower), 1, 1e-4);
  EXPECT_TRUE(choose({moment(500, 1), {}, 0, held_out, {}}, false).held_out.empty());
  EXPECT_TRUE(choose({moment(500, 1), {}, 0, {}, {}}).held_out.empty());
}

TEST_F(MetricTest, MomentsThatCannotBeUsedAreLeftToTheFactoring) {
  const std::vector<float> plain = moment(500, 1), zero(plain.size());
  std::vector<float> bad = plain;
  bad[0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(choose({zero, plain, 100, plain}).lower, zero);
  EXPECT_EQ(choose({bad, plain, 100, plain}).guided_share, 0);
  EXPECT_EQ(choose({plain, bad, 100, plain}).guided_share, 0);
  EXPECT_EQ(choose({plain, {}, 0, bad}).lower, plain);
}

TEST(Metric, FewTokensAnInputAskForMoreDampings) {
  const auto flops = [](double tokens, double damping, bool guided = false) {
    return choice_work(512, guided, true, tokens, damping).factor;
  };
  const double one = flops(1e9, 0);  // no damping to begin with: none is tried
  EXPECT_NEAR(flops(1e9, 0.01), 2 * one, 1e-6 * one);
  EXPECT_NEAR(flops(512 / 0.09, 0.01), 4 * one, 1e-6 * one);  // 0.03 and 0.09 help, 0.27 does not
  EXPECT_NEAR(flops(1, 0.01), 5 * one, 1e-6 * one);           // as many as are tried at most
  EXPECT_NEAR(flops(1e9, 0, true), 5 * one, 1e-6 * one);
  EXPECT_EQ(choice_work(512, true, false, 1, 0.01).factor, 0);
}

}  // namespace
}  // namespace voronoi::quant
