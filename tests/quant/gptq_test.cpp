#include "quant/baselines/gptq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/json.h"
#include "quant/baselines/rtn.h"
#include "quant/baselines/uniform_method.h"
#include "quant/layers.h"
#include "support/data.h"
#include "support/safetensors_lite.h"
#include "support/thread_team.h"
#include "support/typed_encoding.h"

namespace voronoi::quant {
namespace {

using core::DType;

QuantParameters gptq_parameters(int bits, std::int64_t group_size, const std::string& group_grid = "static") {
  QuantParameters p;
  p.method = "gptq";
  p.get<UniformParameters>().bits = bits;
  p.get<UniformParameters>().group_size = group_size;
  p.get<GptqParameters>().group_grid = group_grid;
  return p;
}

/// The method column by column in fp64, without tiles, from one matrix in the order of the loop. A group's grid spans
/// what its columns held before the loop, or before the block of 128 that it begins in.
std::vector<float> plain_gptq(const test::Layer& layer, int bits, std::int64_t group_size, bool original) {
  const std::int64_t n = layer.in_features;
  const auto at = [n](std::int64_t row, std::int64_t column) { return static_cast<std::size_t>(row * n + column); };
  const float max_code = static_cast<float>((1 << bits) - 1);
  std::vector<float> quantized(layer.weight.size());
  for (std::int64_t row = 0; row < layer.out_features; ++row) {
    std::vector<double> w;
    for (const std::int32_t column : layer.hessian.perm)
      w.push_back(static_cast<double>(layer.weight[at(row, column)]));
    std::vector<double> before = w;  // the loop's weights as grids see them
    std::vector<UniformGrid> grids(static_cast<std::size_t>((n + group_size - 1) / group_size));
    const auto group_of = [&](std::int64_t place) {
      return (original ? place : layer.hessian.perm[static_cast<std::size_t>(place)]) / group_size;
    };
    const auto fit = [&](std::int64_t group) {
      std::vector<float> members;
      for (std::int64_t place = 0; place < n; ++place)
        if (group_of(place) == group) members.push_back(static_cast<float>(before[static_cast<std::size_t>(place)]));
      grids[static_cast<std::size_t>(group)] =
          UniformGrid::fit(*std::min_element(members.begin(), members.end()),
                           *std::max_element(members.begin(), members.end()), max_code, DType::f16);
    };
    for (std::int64_t group = 0; group < std::ssize(grids); ++group) fit(group);
    for (std::int64_t c = 0; c < n; ++c) {
      if (original && c % 128 == 0) before = w;
      if (original && c % group_size == 0) fit(c / group_size);
      const std::int64_t natural = layer.hessian.perm[static_cast<std::size_t>(c)];
      const UniformGrid& grid = grids[static_cast<std::size_t>(group_of(c))];
      const float value = grid.value(grid.code(static_cast<float>(w[static_cast<std::size_t>(c)]), max_code));
      quantized[at(row, natural)] = value;
      const double error = (w[static_cast<std::size_t>(c)] - static_cast<double>(value)) /
                           static_cast<double>(layer.hessian.factor.span()[at(c, c)]);
      for (std::int64_t later = c + 1; later < n; ++later)
        w[static_cast<std::size_t>(later)] -= error * static_cast<double>(layer.hessian.factor.span()[at(c, later)]);
    }
  }
  return quantized;
}

std::vector<float> decoded(const QuantResult& result) { return test::decoded(result.encoding); }

std::int64_t count_different(const std::vector<float>& a, const std::vector<float>& b, float tolerance) {
  std::int64_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += !(std::abs(a[i] - b[i]) <= tolerance);
  return count;
}

TEST(Gptq, BlocksAndTilesDoNotChangeThePlainColumnLoop) {
  backend::Context context(backend::Device::cpu, 2);
  // Past two blocks of columns and one tile of rows; the last group is short.
  const test::Layer layer = test::make_layer(context, 140, 300, 1, true);
  core::SoloTeam team;
  for (const bool original : {false, true}) {
    // Groups of 48 begin within a block and reach into the next.
    const auto result =
        gptq_method().quantize(context, team, layer.input(), gptq_parameters(3, 48, original ? "original" : "static"));
    const auto expected = plain_gptq(layer, 3, 48, original);
    // fp32 against fp64: a value near the middle between two codes may flip and then moves what follows in its row.
    EXPECT_LT(count_different(decoded(result), expected, 1e-6F), 0.01 * static_cast<double>(expected.size()));
    const double error = relative_hessian_error(context, 140, 300, layer.weight, expected, layer.hessian.h);
    EXPECT_NEAR(result.relative_error, error, 1e-2 * error);
    EXPECT_EQ(format::uniform_view(result.encoding).perm.empty(), !original);
  }
}

/// What the authors' program answers, with fp32 grids as it has them.
TEST(Gptq, AgreesWithTheOriginal) {
  VORONOI_NEEDS_DATA("quantizer-steps/golden_gptq.json");
  backend::Context context(backend::Device::cpu, 1);
  const core::Json golden = core::read_json_file(test::data_path("quantizer-steps/golden_gptq.json"));
  int n_static = 0, n_original = 0;
  for (const auto& [name, facts] : golden.items()) {
    const test::SafetensorsLite tensors(test::data_path("quantizer-steps/" + name + ".safetensors"));
    test::Layer layer;
    layer.out_features = facts.at("out_features").get<std::int64_t>();
    layer.in_features = facts.at("in_features").get<std::int64_t>();
    layer.weight = tensors.f32("weight");
    const auto h = tensors.f32("hessian");
    layer.hessian = prepare_hessian(context, layer.in_features, test::lower_triangle(layer.in_features, h),
                                    facts.at("damping").get<double>(), facts.at("act_order").get<bool>());
    const auto expected = tensors.f32("quantized");
    const double error = facts.at("error").get<double>();
    const bool fixed = facts.at("static_groups").get<bool>();
    ++(fixed ? n_static : n_original);
    const GptqSettings settings{facts.at("bits").get<int>(),
                                effective_group_size(facts.at("group_size").get<std::int64_t>(), layer.in_features),
                                fixed ? GroupGrid::fixed : GroupGrid::original, DType::f32};
    EXPECT_NEAR(
        relative_hessian_error(context, layer.out_features, layer.in_features, layer.weight, expected, layer.hessian.h),
        error, 1e-4 * error)
        << name;

    const auto codes = gptq_codes(context, layer.input(), {0, layer.out_features}, settings);
    std::vector<float> quantized(expected.size());
    const std::int64_t n_groups = layer.in_features / settings.group_size;
    for (std::int64_t row = 0; row < layer.out_features; ++row)
      for (std::int64_t c = 0; c < layer.in_features; ++c) {
        const auto group = static_cast<std::size_t>(row * n_groups + c / settings.group_size),
                   place = static_cast<std::size_t>(row * layer.in_features + c);
        const std::int64_t column = fixed ? c : layer.hessian.perm[static_cast<std::size_t>(c)];
        quantized[static_cast<std::size_t>(row * layer.in_features + column)] =
            codes.scale[group] * (static_cast<float>(codes.codes[place]) - static_cast<float>(codes.zeros[group]));
      }
    const double ours = relative_hessian_error(context, layer.out_features, layer.in_features, layer.weight, quantized,
                                               layer.hessian.h);
    EXPECT_NEAR(ours, error, 1e-4 * error) << name;
    EXPECT_EQ(count_different(quantized, expected, 1e-6F), 0) << name;
  }
  EXPECT_GE(n_static, 3);
  EXPECT_GE(n_original, 3);
}

TEST(Gptq, BeatsRoundToNearestAndActOrderHelps) {
  backend::Context context(backend::Device::cpu, 2);
  core::SoloTeam team;
  const test::Layer natural = test::make_layer(context, 64, 256, 3, false),
                    ordered = test::make_layer(context, 64, 256, 3, true);
  const double rtn = rtn_method().quantize(context, team, natural.input(), gptq_parameters(3, 64)).relative_error;
  const double gptq = gptq_method().quantize(context, team, natural.input(), gptq_parameters(3, 64)).relative_error;
  const double gptq_ordered =
      gptq_method().quantize(context, team, ordered.input(), gptq_parameters(3, 64)).relative_error;
  EXPECT_LT(gptq, 0.7 * rtn);
  EXPECT_LT(gptq_ordered, gptq);
}

TEST(Gptq, TeamsAndThreadsGiveTheSameBits) {
  backend::Context context(backend::Device::cpu, 1);
  const test::Layer layer = test::make_layer(context, 300, 150, 4, true);  // three tiles, the last one short
  core::SoloTeam solo;
  const auto alone = gptq_method().quantize(context, solo, layer.input(), gptq_parameters(2, 64));
  for (const int members : {2, 3, 4}) {
    std::vector<QuantResult> results(static_cast<std::size_t>(members));
    test::run_as_team(members, [&](core::Team& team) {
      backend::Context own(backend::Device::cpu, 2);
      results[static_cast<std::size_t>(team.rank())] =
          gptq_method().quantize(own, team, layer.input(), gptq_parameters(2, 64));
    });
    for (const QuantResult& result : results) {
      EXPECT_TRUE(result.encoding == alone.encoding) << members << " members";
      EXPECT_EQ(result.relative_error, alone.relative_error);
    }
  }
}

TEST(Gptq, GroupsOfAWholeRowAreAskedForInThreeWays) {
  backend::Context context(backend::Device::cpu, 1);
  const test::Layer layer = test::make_layer(context, 8, 40, 5, false);
  core::SoloTeam team;
  const auto whole = gptq_method().quantize(context, team, layer.input(), gptq_parameters(4, 40));
  for (const std::int64_t group_size : {-1, 0, 41, 1000})
    EXPECT_TRUE(gptq_method().quantize(context, team, layer.input(), gptq_parameters(4, group_size)).encoding ==
                whole.encoding)
        << group_size;
  EXPECT_EQ(stored_bits(whole.encoding), 8 * (40 * 4 + 16 + 32));
}

TEST(Gptq, WeightsOnTheGridAreKept) {
  backend::Context context(backend::Device::cpu, 1);
  test::Layer layer = test::make_layer(context, 4, 16, 6, true);
  for (std::size_t i = 0; i < layer.weight.size(); ++i) layer.weight[i] = 0.125F * (static_cast<float>(i * 7 % 16) - 5);
  core::SoloTeam team;
  for (const char* rule : {"static", "original"}) {
    const auto result = gptq_method().quantize(context, team, layer.input(), gptq_parameters(4, -1, rule));
    EXPECT_EQ(decoded(result), layer.weight) << rule;
    EXPECT_EQ(result.relative_error, 0) << rule;
  }
}

}  // namespace
}  // namespace voronoi::quant
