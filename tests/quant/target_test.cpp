// What codes are fitted to where the input has changed: against sums over the rows themselves, in double precision.
#include "quant/target.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "core/error.h"

namespace voronoi::quant {
namespace {

constexpr std::int64_t kInputs = 18, kOutputs = 11;

std::size_t at(std::int64_t row, std::int64_t column) { return static_cast<std::size_t>(row * kInputs + column); }

std::vector<double> normal_rows(std::int64_t rows, std::uint64_t seed, double deviation = 1) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<double> values(static_cast<std::size_t>(rows * kInputs));
  for (double& value : values) value = deviation * normal(engine);
  return values;
}

/// Rows y of the unquantized model and x in their place: y times a matrix, and noise.
struct Streams {
  std::int64_t n_rows = 0;
  std::vector<double> y, x;
};
Streams streams(std::int64_t n_rows, std::uint64_t seed, double change, double noise = 0.1) {
  Streams result{n_rows, normal_rows(n_rows, seed), {}};
  const std::vector<double> mixing = normal_rows(kInputs, 99, change);
  result.x = normal_rows(n_rows, seed + 1, noise);
  for (std::int64_t r = 0; r < n_rows; ++r)
    for (std::int64_t i = 0; i < kInputs; ++i) {
      result.y[at(r, i)] *= 1 + static_cast<double>(i % 5);
      result.x[at(r, i)] += result.y[at(r, i)];
    }
  for (std::int64_t r = 0; r < n_rows; ++r)
    for (std::int64_t i = 0; i < kInputs; ++i)
      for (std::int64_t j = 0; j < kInputs; ++j) result.x[at(r, i)] += mixing[at(i, j)] * result.y[at(r, j)];
  return result;
}

std::vector<float> moment(const Streams& of) {
  std::vector<float> lower;
  for (std::int64_t i = 0; i < kInputs; ++i)
    for (std::int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (std::int64_t r = 0; r < of.n_rows; ++r) sum += of.x[at(r, i)] * of.x[at(r, j)];
      lower.push_back(static_cast<float>(sum / static_cast<double>(of.n_rows)));
    }
  return lower;
}

std::vector<float> cross(const Streams& of) {
  std::vector<float> matrix;
  for (std::int64_t i = 0; i < kInputs; ++i)
    for (std::int64_t j = 0; j < kInputs; ++j) {
      double sum = 0;
      for (std::int64_t r = 0; r < of.n_rows; ++r) sum += (of.y[at(r, i)] - of.x[at(r, i)]) * of.x[at(r, j)];
      matrix.push_back(static_cast<float>(sum / static_cast<double>(of.n_rows)));
    }
  return matrix;
}

/// Mean over the rows of |W y - Q x|^2.
double loss(const Streams& of, const std::vector<float>& w, const std::vector<float>& q) {
  double sum = 0;
  for (std::int64_t r = 0; r < of.n_rows; ++r)
    for (std::int64_t o = 0; o < kOutputs; ++o) {
      double difference = 0;
      for (std::int64_t i = 0; i < kInputs; ++i)
        difference +=
            static_cast<double>(w[at(o, i)]) * of.y[at(r, i)] - static_cast<double>(q[at(o, i)]) * of.x[at(r, i)];
      sum += difference * difference;
    }
  return sum / static_cast<double>(of.n_rows);
}

/// tr((A - B) (H + lambda I) (A - B)^T), H packed.
double distance(const std::vector<float>& a, const std::vector<float>& b, const std::vector<float>& lower,
                double lambda) {
  double sum = 0;
  for (std::int64_t o = 0; o < kOutputs; ++o)
    for (std::int64_t i = 0; i < kInputs; ++i)
      for (std::int64_t j = 0; j < kInputs; ++j) {
        const std::int64_t high = std::max(i, j), low = std::min(i, j);
        const double h = static_cast<double>(lower[static_cast<std::size_t>(high * (high + 1) / 2 + low)]);
        sum += (static_cast<double>(a[at(o, i)]) - static_cast<double>(b[at(o, i)])) *
               (static_cast<double>(a[at(o, j)]) - static_cast<double>(b[at(o, j)])) * (h + (i == j ? lambda : 0));
      }
  return sum;
}

class TargetTest : public ::testing::Test {
 protected:
  PreparedSite prepare(const char* method = "gptq", double damping = 0.01) {
    QuantParameters parameters;
    parameters.method = method;
    parameters.damping = damping;
    SiteInput site;
    site.name = "site";
    site.in_features = kInputs;
    site.moments.plain = plain_;
    site.moments.cross_plain = cross_;
    site.moments.held_out_plain = held_out_;
    site.moments.held_out_cross_plain = held_out_cross_;
    site.moments.tokens = site.moments.held_out_tokens = 100;
    core::SoloTeam alone;
    return prepare_site(context_, alone, site, parameters);
  }
  void train_on(const Streams& rows) {
    plain_ = moment(rows);
    cross_ = cross(rows);
  }
  void judge_by(const Streams& rows) {
    held_out_ = moment(rows);
    held_out_cross_ = cross(rows);
  }
  Target target(const PreparedSite& site) { return asymmetric_target(context_, kOutputs, weight_, site); }
  double mean_diagonal() const {
    double sum = 0;
    for (std::int64_t i = 0; i < kInputs; ++i)
      sum += static_cast<double>(plain_[static_cast<std::size_t>(i * (i + 3) / 2)]);
    return sum / static_cast<double>(kInputs);
  }

  static std::vector<float> some_weight(std::uint64_t seed, double deviation = 1) {
    std::vector<float> values;
    for (const double value : normal_rows(kOutputs, seed, deviation)) values.push_back(static_cast<float>(value));
    return values;
  }

  backend::Context context_{backend::Device::cpu, 2};
  std::vector<float> plain_, cross_, held_out_, held_out_cross_, weight_ = some_weight(7);
};

TEST_F(TargetTest, OfTheSameInputIsTheWeight) {
  const Streams rows = streams(200, 1, 0);
  train_on({rows.n_rows, rows.x, rows.x});
  weight_[3] = -0.0F;
  for (const char* method : {"gptq", "voronoi"}) {
    const PreparedSite site = prepare(method);
    EXPECT_FALSE(site.target.cross.empty());
    EXPECT_TRUE(target(site).weight.empty());
    EXPECT_EQ(target(site).share, 0);
  }
  cross_.clear();
  EXPECT_TRUE(prepare().target.cross.empty());
  EXPECT_TRUE(target(prepare()).weight.empty());
}

TEST_F(TargetTest, RowsOfAGroupAreThoseOfALinearWithItsMoments) {
  constexpr std::int64_t kFirstRow = 4;
  train_on(streams(300, 1, 0.1));
  const Streams first = streams(200, 11, 0.2), second = streams(250, 12, 0.3);
  const std::vector<float> moments[] = {moment(first), moment(second)}, crosses[] = {cross(first), cross(second)};
  QuantParameters parameters;
  parameters.method = "voronoi";
  const auto prepared = [&](std::size_t of_first, bool both) {
    SiteInput site;
    site.name = "site";
    site.in_features = kInputs;
    site.linears.push_back({"linear", kOutputs});
    site.moments.plain = plain_;
    site.moments.cross_plain = cross_;
    site.moments.tokens = 100;
    site.moments.guided = moments[of_first];
    site.moments.cross_guided = crosses[of_first];
    site.moments.effective_tokens = 1e9;
    if (both) site.moments.later_groups.push_back({kFirstRow, moments[1], 1e9, {}, crosses[1], {}});
    core::SoloTeam alone;
    return prepare_site(context_, alone, site, parameters);
  };
  const Target groups = target(prepared(0, true));
  EXPECT_EQ(groups.share, kUnjudgedShare);
  for (const std::size_t group : {0U, 1U}) {
    const Target alone = target(prepared(group, false));
    double difference = 0, change = 0;
    for (std::int64_t o = group == 0 ? 0 : kFirstRow; o < (group == 0 ? kFirstRow : kOutputs); ++o)
      for (std::int64_t i = 0; i < kInputs; ++i) {
        difference += std::pow(groups.weight[at(o, i)] - alone.weight[at(o, i)], 2);
        change += std::pow(alone.weight[at(o, i)] - weight_[at(o, i)], 2);
      }
    EXPECT_LT(difference, 1e-6 * change) << group;
    EXPECT_GT(change, 0) << group;
  }
}

TEST_F(TargetTest, TakesTheChangeOfTheInputIntoTheWeight) {
  // For any Q: the loss of Q on both streams, with the damping, is its distance from the target but for a constant.
  const Streams rows = streams(300, 1, 0.1);
  train_on(rows);
  judge_by(rows);  // of themselves they tell to go all the way
  for (const double damping : {0.0, 0.01, 0.3})
    for (const char* method : {"gptq", "voronoi"}) {
      const PreparedSite site = prepare(method, damping);
      const double lambda = damping * mean_diagonal();
      const Target made = target(site);
      ASSERT_FALSE(made.weight.empty());
      EXPECT_EQ(made.share, kTargetTrust);
      std::vector<float> whole = weight_;
      for (std::size_t i = 0; i < whole.size(); ++i)
        whole[i] += (made.weight[i] - weight_[i]) / static_cast<float>(kTargetTrust);
      const std::vector<float> moments = moment(rows);
      std::vector<double> constants;
      double size = 0;
      for (std::uint64_t seed = 20; seed < 25; ++seed) {
        const std::vector<float> q = some_weight(seed, seed == 20 ? 0 : 1);
        const double with_damping =
            loss(rows, weight_, q) + lambda * (distance(weight_, q, moments, 1) - distance(weight_, q, moments, 0));
        constants.push_back(with_damping - distance(q, whole, moments, lambda));
        size = std::max(size, with_damping);
      }
      for (const double constant : constants) EXPECT_NEAR(constant, constants.front(), 1e-5 * size) << damping;
      EXPECT_GT(constants.front(), 0);
      EXPECT_LT(constants.front(), loss(rows, weight_, weight_)) << "the target is no better than the weight";
    }
}

TEST_F(TargetTest, TheShareIsTheBestOnHeldOutRows) {
  const Streams rows = streams(30, 1, 0.05, 2), others = streams(400, 5, 0.05, 2);  // of few rows much is chance
  train_on(rows);
  judge_by(others);
  for (const char* method : {"gptq", "voronoi"}) {
    const Target made = target(prepare(method));
    ASSERT_GT(made.share, 0);
    ASSERT_LT(made.share, kTargetTrust);
    const auto at_share = [&](double share) {
      std::vector<float> w = weight_;
      for (std::size_t i = 0; i < w.size(); ++i)
        w[i] += static_cast<float>(share / made.share) * (made.weight[i] - weight_[i]);
      return loss(others, weight_, w);
    };
    const double best = made.share / kTargetTrust;
    EXPECT_LT(at_share(best), at_share(best - 0.05));
    EXPECT_LT(at_share(best), at_share(best + 0.05));
    const double energy = distance(weight_, std::vector<float>(weight_.size()), held_out_, 0);
    EXPECT_NEAR(made.gain, (at_share(0) - at_share(made.share)) / energy, 1e-5 * at_share(0) / energy);
  }
  // Where others say the opposite, nothing is taken.
  for (float& value : held_out_cross_) value = -value;
  EXPECT_EQ(target(prepare()).share, 0);
  EXPECT_TRUE(target(prepare()).weight.empty());
}

TEST_F(TargetTest, WithoutHeldOutRowsAQuarterIsTaken) {
  const Streams rows = streams(300, 1, 0.1);
  train_on(rows);
  const Target quarter = target(prepare());
  EXPECT_EQ(quarter.share, kUnjudgedShare);
  EXPECT_EQ(quarter.gain, 0);
  judge_by(rows);
  const Target whole = target(prepare());
  for (std::size_t i = 0; i < weight_.size(); ++i)
    EXPECT_NEAR(quarter.weight[i] - weight_[i],
                static_cast<float>(kUnjudgedShare / kTargetTrust) * (whole.weight[i] - weight_[i]), 1e-5F);
}

TEST_F(TargetTest, DoesNotDependOnUnitsAndRefusesWhatIsNoNumber) {
  const Streams rows = streams(300, 1, 0.1), others = streams(300, 5, 0.1);
  train_on(rows);
  judge_by(others);
  const Target plain = target(prepare());
  for (std::vector<float>* values : {&plain_, &cross_, &held_out_, &held_out_cross_})
    for (float& value : *values) value = std::ldexp(value, 60);
  const Target scaled = target(prepare());
  for (std::size_t i = 0; i < weight_.size(); ++i) EXPECT_NEAR(plain.weight[i], scaled.weight[i], 1e-5F);
  EXPECT_NEAR(plain.share, scaled.share, 1e-5);
  cross_[5] = NAN;
  EXPECT_THROW(prepare(), core::NumericError);
  cross_[5] = 0;
  for (float& value : cross_) value *= 1e6F;
  EXPECT_THROW(
      {
        held_out_cross_ = cross_;
        target(prepare());
      },
      core::NumericError);
}

}  // namespace
}  // namespace voronoi::quant
