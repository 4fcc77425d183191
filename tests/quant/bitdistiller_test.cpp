#include "quant/baselines/bitdistiller.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/baselines/rtn.h"
#include "quant/baselines/uniform.h"
#include "quant/baselines/uniform_method.h"
#include "quant/layers.h"
#include "support/thread_team.h"
#include "support/typed_encoding.h"

namespace voronoi::quant {
namespace {

using core::DType;
using test::decoded;

QuantParameters bitdistiller_parameters(int bits, std::int64_t group_size) {
  QuantParameters p;
  p.method = "bitdistiller";
  p.get<UniformParameters>().bits = bits;
  p.get<UniformParameters>().group_size = group_size;
  return p;
}

/// The cost of a group's error in its own block of H, in fp64.
double group_cost(const test::Layer& layer, std::int64_t row, std::int64_t begin, std::int64_t end,
                  const std::vector<float>& quantized) {
  const std::int64_t n = layer.in_features;
  const auto error = [&](std::int64_t c) {
    const auto at = static_cast<std::size_t>(row * n + c);
    return static_cast<double>(layer.weight[at]) - static_cast<double>(quantized[at]);
  };
  double cost = 0;
  for (std::int64_t a = begin; a < end; ++a)
    for (std::int64_t b = begin; b < end; ++b)
      cost += error(a) * error(b) * static_cast<double>(layer.hessian.h.span()[static_cast<std::size_t>(a * n + b)]);
  return cost;
}

/// The grids of all clips, one after the other, with whole matrices: the least cost of each group, row by row.
std::vector<double> least_costs(const test::Layer& layer, int bits, std::int64_t group_size) {
  const std::int64_t n = layer.in_features, n_groups = (n + group_size - 1) / group_size;
  const auto most = static_cast<float>((1 << bits) - 1);
  std::vector<double> least(static_cast<std::size_t>(layer.out_features * n_groups),
                            std::numeric_limits<double>::infinity());
  for (int i = 0; i < 10; ++i)
    for (int j = 0; j < 10; ++j) {
      std::vector<float> quantized(layer.weight.size());
      for (std::int64_t row = 0; row < layer.out_features; ++row)
        for (std::int64_t g = 0; g < n_groups; ++g) {
          const std::int64_t begin = g * group_size, end = std::min(n, begin + group_size);
          const auto first = layer.weight.begin() + row * n + begin, last = layer.weight.begin() + row * n + end;
          const float high = *std::max_element(first, last) * (1 - static_cast<float>(i) / 20),
                      low = *std::min_element(first, last) * (1 - static_cast<float>(j) / 20);
          const UniformGrid grid = UniformGrid::fit(low, high, most, DType::f16);
          for (std::int64_t c = begin; c < end; ++c) {
            const auto at = static_cast<std::size_t>(row * n + c);
            quantized[at] = grid.value(grid.code(layer.weight[at], most));
          }
          double& best = least[static_cast<std::size_t>(row * n_groups + g)];
          best = std::min(best, group_cost(layer, row, begin, end, quantized));
        }
    }
  return least;
}

TEST(BitDistiller, EveryGroupHasTheClipsOfLeastOutputError) {
  backend::Context context(backend::Device::cpu, 2);
  // Past one tile of rows; the last group is short; the order of the Hessian takes no part.
  const test::Layer layer = test::make_layer(context, 132, 40, 5, true);
  core::SoloTeam team;
  for (const int bits : {2, 3}) {
    const QuantResult result =
        bitdistiller_method().quantize(context, team, layer.input(), bitdistiller_parameters(bits, 16));
    const std::vector<float> quantized = decoded(result.encoding);
    const std::vector<double> least = least_costs(layer, bits, 16);
    for (std::int64_t row = 0; row < 132; ++row)
      for (std::int64_t g = 0; g < 3; ++g) {
        const double wanted = least[static_cast<std::size_t>(row * 3 + g)];
        ASSERT_NEAR(group_cost(layer, row, g * 16, std::min<std::int64_t>(40, g * 16 + 16), quantized), wanted,
                    1e-4 * wanted)
            << bits << " bits, row " << row << ", group " << g;
      }
    EXPECT_LT(result.statistics.at("clip_low"), 1);
    EXPECT_GT(result.statistics.at("clip_high"), 0.55);
  }
}

TEST(BitDistiller, ClipsAWeightThatNoInputMeets) {
  backend::Context context(backend::Device::cpu, 1);
  // One large weight, and small ones on both sides.
  const std::vector<float> weight{-1, 3, 0.3F, -0.4F, 0.9F, -0.9F};
  std::vector<float> lower;
  for (int i = 0; i < 6; ++i)
    for (int j = 0; j <= i; ++j) lower.push_back(i == j ? (i == 1 ? 1e-3F : 1.0F) : 0.0F);
  const PreparedHessian hessian = prepare_hessian(context, 6, lower, 0.01, false);
  const QuantInput input{"layer", 1, 6, weight, &hessian, DType::f16};
  core::SoloTeam team;
  const QuantResult result = bitdistiller_method().quantize(context, team, input, bitdistiller_parameters(2, 0));
  EXPECT_LT(result.statistics.at("clip_high"), 0.9);
  const QuantResult unclipped = rtn_method().quantize(context, team, input, bitdistiller_parameters(2, 0));
  EXPECT_LT(result.relative_error, 0.5 * unclipped.relative_error);
}

TEST(BitDistiller, GroupsOfOneSignAndOfZerosAreQuantized) {
  backend::Context context(backend::Device::cpu, 1);
  const std::vector<float> weight{0.5F, 1, 0.75F, 0, 0, 0, -0.25F, -1, -0.5F};
  std::vector<float> lower;
  for (int i = 0; i < 9; ++i)
    for (int j = 0; j <= i; ++j) lower.push_back(i == j ? 1.0F : 0.0F);
  const PreparedHessian hessian = prepare_hessian(context, 9, lower, 0.01, false);
  const QuantInput input{"layer", 1, 9, weight, &hessian, DType::bf16};
  core::SoloTeam team;
  const QuantResult result = bitdistiller_method().quantize(context, team, input, bitdistiller_parameters(3, 3));
  ASSERT_EQ(find_problem(result.encoding), "");
  const std::vector<float> quantized = decoded(result.encoding);
  for (std::size_t i = 0; i < weight.size(); ++i) EXPECT_NEAR(quantized[i], weight[i], 0.08);
}

TEST(BitDistiller, IsNeverWorseThanRoundingWhereGroupsAreRows) {
  backend::Context context(backend::Device::cpu, 2);
  const test::Layer layer = test::make_layer(context, 40, 96, 3, false);
  core::SoloTeam team;
  for (const int bits : {2, 3, 4}) {
    const double clipped =
        bitdistiller_method().quantize(context, team, layer.input(), bitdistiller_parameters(bits, 0)).relative_error;
    const double rounded =
        rtn_method().quantize(context, team, layer.input(), bitdistiller_parameters(bits, 0)).relative_error;
    EXPECT_LT(clipped, (bits == 2 ? 0.8 : 1.0) * rounded) << bits;
  }
}

TEST(BitDistiller, TeamsAndThreadsGiveTheSameBits) {
  backend::Context context(backend::Device::cpu, 1);
  const test::Layer layer = test::make_layer(context, 300, 70, 4, true);
  core::SoloTeam solo;
  const auto alone = bitdistiller_method().quantize(context, solo, layer.input(), bitdistiller_parameters(2, 16));
  for (const int members : {2, 3, 4}) {  // the fourth has no tile of rows
    std::vector<QuantResult> results(static_cast<std::size_t>(members));
    test::run_as_team(members, [&](core::Team& team) {
      backend::Context own(backend::Device::cpu, 2);
      results[static_cast<std::size_t>(team.rank())] =
          bitdistiller_method().quantize(own, team, layer.input(), bitdistiller_parameters(2, 16));
    });
    for (const QuantResult& result : results) {
      EXPECT_TRUE(result.encoding == alone.encoding) << members;
      EXPECT_EQ(result.statistics, alone.statistics) << members;
    }
  }
}

}  // namespace
}  // namespace voronoi::quant
