#include "quant/baselines/afpq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "format/signed_levels.h"
#include "quant/baselines/awq.h"
#include "quant/baselines/gptq.h"
#include "quant/baselines/signed_grids.h"
#include "quant/baselines/uniform_method.h"
#include "quant/layers.h"
#include "support/thread_team.h"
#include "support/typed_encoding.h"

namespace voronoi::quant {
namespace {

using core::DType;
using test::decoded;
using testing::ElementsAre;

QuantParameters afpq_parameters(int bits, std::int64_t group_size, const std::string& levels = "normal",
                                const std::string& with = "none", const std::string& group_grid = "static") {
  QuantParameters p;
  p.method = "afpq";
  p.get<UniformParameters>().bits = bits;
  p.get<UniformParameters>().group_size = group_size;
  p.get<AfpqParameters>() = {levels, with};
  p.get<GptqParameters>().group_grid = group_grid;
  return p;
}

test::Layer afpq_layer(backend::Context& context, std::vector<float> weight, std::int64_t out_features) {
  const auto n = std::ssize(weight) / out_features;
  std::vector<float> lower;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j) lower.push_back(i == j ? 1.0F : 0.0F);
  return {out_features, n, std::move(weight), prepare_hessian(context, n, lower, 0.01, false)};
}

TEST(Afpq, TakesTheNearestLevelOfItsSignsScale) {
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam team;
  // FP3: scales 8 / 4 and 2 / 4; a group of zeros; groups of one sign.
  const test::Layer layer = afpq_layer(context, {8, -2, 3, -0.6F, 0, 0, 0, 0, 0.5F, 2, 1, 0, -1, -4, -0.9F, -3.1F}, 1);
  const QuantResult result = afpq_method().quantize(context, team, layer.input(), afpq_parameters(3, 4, "floating"));
  // 3 lies between 2 and 4 and the first of them wins; -0.6 is nearer to -0.5 than to -1.
  EXPECT_THAT(decoded(result.encoding), ElementsAre(8, -2, 2, -0.5F, 0, 0, 0, 0, 0.5F, 2, 1, 0, -1, -4, -1, -4));
  const auto scale = test::signed_levels_of(result.encoding).scale;
  std::vector<float> values;
  for (const std::uint16_t bits : scale) values.push_back(core::half_to_float(bits));
  EXPECT_THAT(values, ElementsAre(2, 0.5F, 0.25F, 0.25F, 0.5F, 0, 0, 1));
}

/// By its definition, weight for weight.
std::vector<float> plain_afpq(const test::Layer& layer, int table, int bits, std::int64_t group_size, DType dtype) {
  const std::span<const float> levels = format::levels_of(table, bits);
  const float outermost = levels.back();
  std::vector<float> quantized(layer.weight.size());
  for (std::int64_t row = 0; row < layer.out_features; ++row)
    for (std::int64_t begin = 0; begin < layer.in_features; begin += group_size) {
      const std::int64_t end = std::min(layer.in_features, begin + group_size);
      float above = 0, below = 0;
      for (std::int64_t c = begin; c < end; ++c) {
        const float w = layer.weight[static_cast<std::size_t>(row * layer.in_features + c)];
        above = std::max(above, w);
        below = std::max(below, -w);
      }
      above = core::round_to(dtype, above / outermost);
      below = core::round_to(dtype, below / outermost);
      for (std::int64_t c = begin; c < end; ++c) {
        const auto at = static_cast<std::size_t>(row * layer.in_features + c);
        const float w = layer.weight[at], s = w < 0 ? below : above;
        float best = 0, least = std::numeric_limits<float>::infinity();
        for (const float level : levels)
          if (const float distance = std::fabs(w / s - level); distance < least) least = distance, best = level;
        quantized[at] = s * best;
      }
    }
  return quantized;
}

TEST(Afpq, IsWhatItsDefinitionSays) {
  backend::Context context(backend::Device::cpu, 2);
  core::SoloTeam team;
  const test::Layer layer = test::make_layer(context, 140, 70, 4, true);  // past a tile of rows, the last group short
  for (const int table : {0, 1})
    for (const int bits : {3, 4})
      for (const DType dtype : {DType::f16, DType::bf16}) {
        const QuantParameters p = afpq_parameters(bits, 16, table == 0 ? "normal" : "floating");
        const QuantResult result = quantize(context, team, layer.input(dtype), p);
        const std::vector<float> expected = plain_afpq(layer, table, bits, 16, dtype);
        EXPECT_EQ(decoded(result.encoding), expected) << table << " " << bits;
        const double error = relative_hessian_error(context, 140, 70, layer.weight, expected, layer.hessian.h);
        EXPECT_NEAR(result.relative_error, error, 1e-6 * error);
      }
}

TEST(Afpq, TwoScalesAreBetterThanOneWhereTheSignsDiffer) {
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam team;
  test::Layer layer = test::make_layer(context, 32, 64, 8, false);
  for (float& w : layer.weight) w *= w < 0 ? 0.2F : 1.0F;
  const QuantResult result = afpq_method().quantize(context, team, layer.input(), afpq_parameters(3, 32));
  const SignedGrids family(format::levels_of(0, 3), DType::f16);
  std::vector<float> symmetric(layer.weight.size());
  for (std::size_t begin = 0; begin < symmetric.size(); begin += 32) {
    const float* w = layer.weight.data() + begin;
    const auto [low, high] = std::minmax_element(w, w + 32);
    const float most = std::max(-*low, *high);
    family.values(family.fit(-most, most), w, 32, symmetric.data() + begin);
  }
  EXPECT_LT(result.relative_error,
            0.9 * relative_hessian_error(context, 32, 64, layer.weight, symmetric, layer.hessian.h));
}

TEST(Afpq, TheFeedbackOfGptqIsExactOnADiagonalHessianAndHelpsElsewhere) {
  backend::Context context(backend::Device::cpu, 2);
  core::SoloTeam team;
  const test::Layer plain = afpq_layer(context, test::make_synthetic_layer(20, 48, 3).weight, 20);
  const auto error_of = [&](const test::Layer& layer, const std::string& with, const std::string& group_grid) {
    return afpq_method().quantize(context, team, layer.input(), afpq_parameters(3, 16, "normal", with, group_grid));
  };
  EXPECT_EQ(decoded(error_of(plain, "gptq", "static").encoding), decoded(error_of(plain, "none", "static").encoding));
  const test::Layer real = test::make_layer(context, 140, 300, 1, true);
  const double none = error_of(real, "none", "static").relative_error;
  for (const char* rule : {"static", "original"}) {
    const QuantResult result = error_of(real, "gptq", rule);
    EXPECT_LT(result.relative_error, 0.7 * none) << rule;
    EXPECT_EQ(test::signed_levels_of(result.encoding).perm.empty(), std::string(rule) == "static");
    EXPECT_EQ(result.statistics.at("dead_columns"), 0);
  }
}

/// The loop of GPTQ in fp64 with the grids of the weights before it, without tiles and blocks.
TEST(Afpq, TheLoopOfGptqHasTheseGrids) {
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam team;
  const test::Layer layer = test::make_layer(context, 30, 64, 6, true);
  const QuantResult result =
      afpq_method().quantize(context, team, layer.input(), afpq_parameters(4, 16, "floating", "gptq"));
  const SignedGrids family(format::levels_of(1, 4), DType::f16);
  const auto factor = [&](std::int64_t a, std::int64_t b) {
    return static_cast<double>(layer.hessian.factor.span()[static_cast<std::size_t>(a * 64 + b)]);
  };
  const std::vector<float> found = decoded(result.encoding);
  int n_different = 0;
  for (std::int64_t row = 0; row < 30; ++row) {
    const float* weights = layer.weight.data() + row * 64;
    std::vector<double> w(weights, weights + 64);
    for (std::int64_t i = 0; i < 64; ++i) {
      const std::int32_t column = layer.hessian.perm[static_cast<std::size_t>(i)];
      const float* group = weights + column / 16 * 16;
      const auto [low, high] = std::minmax_element(group, group + 16);
      const SignedGrid grid = family.fit(*low, *high);
      double& mine = w[static_cast<std::size_t>(column)];
      const float value = family.value(grid, family.code(grid, static_cast<float>(mine)));
      n_different += std::fabs(value - found[static_cast<std::size_t>(row * 64 + column)]) > 1e-6F;
      const double error = (mine - static_cast<double>(value)) / factor(i, i);
      for (std::int64_t later = i + 1; later < 64; ++later)
        w[static_cast<std::size_t>(layer.hessian.perm[static_cast<std::size_t>(later)])] -= error * factor(i, later);
    }
  }
  EXPECT_LT(n_different, 20);  // a value near the middle between two levels may flip
}

TEST(Afpq, StandsBehindTheScalesOfAwqAndIsClippedAsItIs) {
  backend::Context context(backend::Device::cpu, 2);
  core::SoloTeam alone;
  const test::SyntheticLayer made = test::make_synthetic_layer(300, 40, 3, {0.2, 0.3, 1.2});
  SiteInput site;
  site.name = "block 0 down";
  site.in_features = 40;
  site.moments.plain = made.lower;
  site.linears = {{"model.layers.0.mlp.down_proj", 300}};
  site.read_weight = [&](const SiteLinear&) { return made.weight; };
  QuantParameters p = afpq_parameters(3, 16, "normal", "awq");
  p.get<AwqParameters>().column_scales = "all";
  const auto quantized = [&](backend::Context& own, core::Team& team) {
    const PreparedSite prepared = prepare_site(own, team, site, p);
    const QuantInput input{
        "model.layers.0.mlp.down_proj", 300, 40, made.weight, &prepared.hessian, DType::f16, prepared.state.get()};
    return quantize(own, team, input, p);
  };
  const QuantResult result = quantized(context, alone);
  EXPECT_GT(result.statistics.at("scale_exponent"), 0);
  EXPECT_LT(result.statistics.at("clip"), 1);
  EXPECT_EQ(std::ssize(test::signed_levels_of(result.encoding).column_scale), 40);
  const PreparedSite prepared = prepare_site(context, alone, site, afpq_parameters(3, 16));
  const QuantInput input{"down", 300, 40, made.weight, &prepared.hessian, DType::f16};
  EXPECT_LT(result.relative_error, 0.8 * quantize(context, alone, input, afpq_parameters(3, 16)).relative_error);
  for (const int size : {2, 3})
    test::run_as_team(size, [&](core::Team& team) {
      backend::Context own(backend::Device::cpu, 1);
      const QuantResult theirs = quantized(own, team);
      EXPECT_TRUE(theirs.encoding == result.encoding);
      EXPECT_EQ(theirs.statistics, result.statistics);
    });
}

TEST(Afpq, HasTablesOfThreeAndFourBits) {
  for (const int bits : {2, 5}) {
    const Problems problems = check_parameters(afpq_parameters(bits, 64));
    ASSERT_EQ(problems.size(), 1);
    EXPECT_THAT(problems.front(), testing::HasSubstr("3 and 4 bits, not " + std::to_string(bits)));
  }
  EXPECT_TRUE(check_parameters(afpq_parameters(3, 64)).empty());
  const LayerCount layer{64, 64, 1};
  EXPECT_EQ(afpq_method().settings(afpq_parameters(2, 64), {&layer, 1}).size(), 2);
}

}  // namespace
}  // namespace voronoi::quant
