#include "calib/site_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/random.h"
#include "support/tree_mean.h"

namespace voronoi::calib {
namespace {

constexpr std::int64_t kN = 6, kRows = 20;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

std::vector<float> rows() {
  const core::CounterRandom random(3, 9);
  std::vector<float> x(static_cast<std::size_t>(kRows * kN));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(random.uniform(i) - 0.5);
  return x;
}

class SiteSumTest : public ::testing::Test {
 protected:
  std::vector<float> mean_of(SiteSum& sum, std::int64_t chunk = 0) {
    sum.finish(chunk, false);
    return test::mean_of(context_, sum.tree()).values;
  }
  backend::Context context_{backend::Device::cpu, 2};
};

TEST_F(SiteSumTest, LooksAtTheDiagonalOnlyAndFindsAnyBadValue) {
  for (const float bad : {kNan, -kNan, kInf, -kInf, 1.1e12F, -1e25F})
    for (const std::size_t place : {std::size_t{0}, std::size_t{5}, std::size_t{77}, std::size_t{119}}) {
      std::vector<float> x = rows();
      SiteSum sum(context_, kN, core::DType::f32);
      sum.start();
      sum.add(x.data(), kRows);
      EXPECT_TRUE(sum.sound());
      x[place] = bad;
      sum.start();
      sum.add(x.data(), kRows);
      EXPECT_FALSE(sum.sound()) << bad << " at " << place;
    }
}

TEST_F(SiteSumTest, LeavesBadRowsOutAndCountsThem) {
  const std::vector<float> good = rows();
  std::vector<float> x = good, kept;
  x[3 * kN + 4] = kNan;
  x[12 * kN] = -2e12F;
  x[12 * kN + 1] = kInf;
  for (std::int64_t r = 0; r < kRows; ++r)
    if (r != 3 && r != 12) kept.insert(kept.end(), good.begin() + r * kN, good.begin() + (r + 1) * kN);
  SiteSum expected(context_, kN, core::DType::f32), sum(context_, kN, core::DType::f32);
  expected.start();
  expected.add(kept.data(), kRows - 2);
  sum.start();
  sum.add_sound_rows(x.data(), kRows);
  EXPECT_TRUE(sum.sound());
  ASSERT_TRUE(sum.first_bad().has_value());
  EXPECT_EQ(sum.first_bad()->row, 3);
  EXPECT_EQ(sum.first_bad()->channel, 4);
  EXPECT_TRUE(std::isnan(sum.first_bad()->value));
  sum.finish(0, false);
  EXPECT_EQ(test::tokens_of(sum.tree()), kRows - 2);
  EXPECT_EQ(test::left_out_of(sum.tree()), 2);
  EXPECT_EQ(test::mean_of(context_, sum.tree()).values, mean_of(expected));
}

TEST_F(SiteSumTest, CountsRowsOverTheCallsOfAChunkAndStartsAnew) {
  std::vector<float> x = rows();
  SiteSum sum(context_, kN, core::DType::f32);
  sum.start();
  sum.add_sound_rows(x.data(), kRows);
  EXPECT_FALSE(sum.first_bad().has_value());
  x[7 * kN + 2] = kInf;
  sum.add_sound_rows(x.data(), kRows);
  EXPECT_EQ(sum.first_bad()->row, kRows + 7);
  EXPECT_EQ(sum.first_bad()->channel, 2);
  sum.finish(0, false);
  sum.start();
  EXPECT_FALSE(sum.first_bad().has_value());
  for (float& value : x) value = kNan;  // not one row is left
  sum.add_sound_rows(x.data(), kRows);
  EXPECT_TRUE(sum.sound());
  sum.finish(1, false);
  EXPECT_EQ(test::tokens_of(sum.tree()), 2 * kRows - 1);
  EXPECT_EQ(test::left_out_of(sum.tree()), kRows + 1);
  for (const float value : test::mean_of(context_, sum.tree()).values) EXPECT_TRUE(std::isfinite(value));
}

TEST_F(SiteSumTest, SumsCounterpartsOverTheSameRows) {
  const std::vector<float> x = rows();
  std::vector<float> y = x;
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += 0.25F * x[(i * 7 + 3) % x.size()];
  std::vector<std::int32_t> own(kRows);
  std::iota(own.begin(), own.end(), 0);
  PairedRows pairs{y.data(), own, std::vector<bool>(kRows, true)};
  const auto expect_cross = [&](const std::vector<float>& got, const std::vector<std::size_t>& left_out,
                                const std::vector<float>& weights) {
    ASSERT_EQ(got.size(), static_cast<std::size_t>(kN * kN));
    for (std::size_t i = 0; i < kN; ++i)
      for (std::size_t j = 0; j < kN; ++j) {
        double sum = 0;
        for (std::size_t r = 0; r < kRows; ++r)
          if (std::find(left_out.begin(), left_out.end(), r) == left_out.end())
            sum += (weights.empty() ? 1.0 : static_cast<double>(weights[r])) *
                   (static_cast<double>(y[r * kN + i]) - static_cast<double>(x[r * kN + i])) *
                   static_cast<double>(x[r * kN + j]);
        EXPECT_NEAR(got[i * kN + j], sum / static_cast<double>(kRows - std::ssize(left_out)), 1e-6) << i << " " << j;
      }
  };
  SiteSum sum(context_, kN, core::DType::f32, true);
  sum.start();
  sum.add(x.data(), kRows, &pairs);
  EXPECT_TRUE(sum.sound());
  sum.finish(0, false);
  expect_cross(test::mean_of(context_, sum.cross(), test::tokens_of(sum.tree())), {}, {});
  EXPECT_TRUE(test::mean_of(context_, sum.held_out_cross(), 1).empty());

  std::vector<float> weights;
  for (std::size_t r = 0; r < kRows; ++r) weights.push_back(0.5F + 0.1F * static_cast<float>(r));
  const std::span<const float> counts(weights);
  SiteSum weighted(context_, kN, core::DType::f32, true);
  weighted.start(&counts);
  weighted.add(x.data(), kRows, &pairs);
  weighted.finish(0, true);
  expect_cross(test::mean_of(context_, weighted.held_out_cross(), test::tokens_of(weighted.held_out())), {}, weights);

  // A counterpart that cannot be used takes its row along.
  std::vector<float> struck = y;
  struck[9 * kN + 2] = kNan;
  pairs = {struck.data(), own, std::vector<bool>(kRows, true)};
  pairs.sound[9] = false;
  SiteSum without(context_, kN, core::DType::f32, true);
  without.start(&counts);
  without.add(x.data(), kRows, &pairs);
  EXPECT_FALSE(without.sound());
  without.start(&counts);
  without.add_sound_rows(x.data(), kRows, &pairs);
  ASSERT_TRUE(without.first_bad().has_value());
  EXPECT_TRUE(without.first_bad()->of_pair);
  EXPECT_EQ(without.first_bad()->row, 9);
  EXPECT_EQ(without.first_bad()->channel, 2);
  without.finish(0, false);
  EXPECT_EQ(test::left_out_of(without.tree()), 1);
  expect_cross(test::mean_of(context_, without.cross(), test::tokens_of(without.tree())), {9}, weights);

  // Rows without a counterpart count as if it were they.
  pairs = {y.data(), own, std::vector<bool>(kRows, true)};
  pairs.row[4] = pairs.row[17] = -1;
  SiteSum some(context_, kN, core::DType::f32, true);
  some.start(&counts);
  some.add(x.data(), kRows, &pairs);
  some.finish(0, false);
  std::copy_n(x.begin() + 4 * kN, kN, y.begin() + 4 * kN);
  std::copy_n(x.begin() + 17 * kN, kN, y.begin() + 17 * kN);
  expect_cross(test::mean_of(context_, some.cross(), test::tokens_of(some.tree())), {}, weights);

  // Nothing of the same rows twice.
  pairs = {x.data(), own, std::vector<bool>(kRows, true)};
  SiteSum nothing(context_, kN, core::DType::f32, true);
  nothing.start();
  nothing.add(x.data(), kRows, &pairs);
  nothing.finish(0, false);
  for (const float value : test::mean_of(context_, nothing.cross(), kRows)) EXPECT_EQ(value, 0);
}

TEST_F(SiteSumTest, ManyLargeRowsAreNoFault) {
  const std::vector<float> x(static_cast<std::size_t>(kRows * kN), 0.99e12F);
  SiteSum sum(context_, kN, core::DType::f32);
  sum.start();
  sum.add(x.data(), kRows);
  EXPECT_FALSE(sum.sound());  // looked at again
  sum.start();
  sum.add_sound_rows(x.data(), kRows);
  EXPECT_FALSE(sum.first_bad().has_value());
  sum.finish(0, false);
  EXPECT_EQ(test::left_out_of(sum.tree()), 0);
  for (const float value : test::mean_of(context_, sum.tree()).values) EXPECT_TRUE(std::isfinite(value));
}

TEST_F(SiteSumTest, InF16WhatRoundsToInfinityIsTooLarge) {
  EXPECT_EQ(core::round_to(core::DType::f16, largest_input(core::DType::f16)), 65504.0F);
  EXPECT_TRUE(std::isinf(core::round_to(core::DType::f16, 65520.0F)));
  for (const auto& [value, sound] : {std::pair{65519.0F, true}, {65520.0F, false}}) {
    std::vector<float> x = rows();
    x[9 * kN] = value;
    SiteSum sum(context_, kN, core::DType::f16);
    sum.start();
    sum.add(x.data(), kRows);
    EXPECT_EQ(sum.sound(), sound) << value;
    sum.start();
    sum.add_sound_rows(x.data(), kRows);
    EXPECT_EQ(sum.first_bad().has_value(), !sound) << value;
  }
}

}  // namespace
}  // namespace voronoi::calib
