#include "quant/baselines/rtn.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/packing.h"
#include "quant/baselines/uniform.h"
#include "quant/baselines/uniform_method.h"
#include "quant/layers.h"
#include "support/thread_team.h"
#include "support/typed_encoding.h"

namespace voronoi::quant {
namespace {

using core::DType;
using test::decoded;
using testing::ElementsAre;

QuantParameters rtn_parameters(int bits, std::int64_t group_size) {
  QuantParameters p;
  p.method = "rtn";
  p.get<UniformParameters>().bits = bits;
  p.get<UniformParameters>().group_size = group_size;
  return p;
}

TEST(UniformGrid, HoldsZeroExactlyAndBothEnds) {
  const UniformGrid grid = UniformGrid::fit(-1, 2, 3, DType::f16);
  EXPECT_EQ(grid.scale, 1);
  EXPECT_EQ(grid.zero, 1);
  EXPECT_EQ(grid.code(-1, 3), 0);
  EXPECT_EQ(grid.code(0, 3), 1);
  EXPECT_EQ(grid.code(0.5F, 3), 1);  // halves go to the even step
  EXPECT_EQ(grid.code(1.5F, 3), 3);
  EXPECT_EQ(grid.code(1e30F, 3), 3);
  EXPECT_EQ(grid.code(-1e30F, 3), 0);
}

TEST(UniformGrid, RangesOfOneSignReachDownToZero) {
  EXPECT_EQ(UniformGrid::fit(1, 3, 3, DType::f16).zero, 0);
  EXPECT_EQ(UniformGrid::fit(1, 3, 3, DType::f16).scale, 1);
  EXPECT_EQ(UniformGrid::fit(-3, -1, 3, DType::f16).zero, 3);
}

TEST(UniformGrid, DegenerateRangesKeepAUsableScale) {
  const UniformGrid zero = UniformGrid::fit(0, 0, 3, DType::f16);
  EXPECT_EQ(zero.value(zero.code(0, 3)), 0);
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32})
    for (const float range : {1e-30F, 1e-8F, 1e6F, std::numeric_limits<float>::max()}) {
      const UniformGrid grid = UniformGrid::fit(-range, range, 255, dtype);
      EXPECT_GT(grid.scale, 0);
      EXPECT_TRUE(std::isfinite(grid.scale)) << range;
      EXPECT_EQ(grid.scale, core::round_to(dtype, grid.scale));
      EXPECT_GE(grid.zero, 0);
      EXPECT_LE(grid.zero, 255);
      EXPECT_EQ(grid.value(grid.code(0, 255)), 0);
    }
}

TEST(Rtn, CodesOfOneRowAreThoseWorkedOutByHand) {
  backend::Context context(backend::Device::cpu, 1);
  PreparedHessian hessian =
      prepare_hessian(context, 5, std::vector<float>{1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1}, 0.01, false);
  const std::vector<float> weight{-1, 0.4F, 2, 0.75F, -0.3F};
  const QuantInput input{"layer", 1, 5, weight, &hessian, DType::f16};
  core::SoloTeam team;
  const auto result = rtn_method().quantize(context, team, input, rtn_parameters(2, 3));
  const format::UniformEncoding e = test::uniform_of(result.encoding);
  // Group 0: range -1..2, scale 1, zero 1. Group 1: range -0.3..0.75, scale half(0.35) = 0.35009766, zero 1.
  EXPECT_THAT(e.scale, ElementsAre(core::float_to_half(1), core::float_to_half(0.35F)));
  EXPECT_THAT(e.zeros, ElementsAre(1U | 1U << 2));
  EXPECT_THAT(e.codes, ElementsAre(0U | 1U << 2 | 3U << 4 | 3U << 6 | 0U << 8));
  EXPECT_TRUE(e.perm.empty());
  const float step = core::half_to_float(core::float_to_half(0.35F));
  EXPECT_THAT(decoded(result.encoding), ElementsAre(-1, 0, 2, 2 * step, -step));
  const double d = 0.75 - 2 * static_cast<double>(step), f = 0.3 - static_cast<double>(step);
  EXPECT_NEAR(result.relative_error, (0.16 + d * d + f * f) / (1 + 0.16 + 4 + 0.5625 + 0.09), 1e-6);
}

TEST(Rtn, EveryWeightGoesToTheNearestPointItsGroupHas) {
  backend::Context context(backend::Device::cpu, 2);
  const test::Layer layer = test::make_layer(context, 20, 100, 2, true);  // the order of the Hessian takes no part
  core::SoloTeam team;
  for (const DType dtype : {DType::f16, DType::bf16})
    for (const int bits : {1, 2, 3, 4, 8}) {
      const auto result = rtn_method().quantize(context, team, layer.input(dtype), rtn_parameters(bits, 32));
      const format::UniformEncoding e = test::uniform_of(result.encoding);
      ASSERT_EQ(find_problem(result.encoding), "");
      const auto weight = decoded(result.encoding);
      for (std::int64_t row = 0; row < 20; ++row) {
        std::vector<std::uint32_t> zeros(4);
        core::unpack_row(std::span(e.zeros).subspan(static_cast<std::size_t>(row * core::packed_words(4, bits)),
                                                    static_cast<std::size_t>(core::packed_words(4, bits))),
                         bits, zeros);
        for (std::int64_t c = 0; c < 100; ++c) {
          const auto place = static_cast<std::size_t>(row * 100 + c), group = static_cast<std::size_t>(c / 32);
          const float step = core::from_bits16(dtype, e.scale[static_cast<std::size_t>(row * 4) + group]);
          float best = std::numeric_limits<float>::infinity();
          for (int code = 0; code < 1 << bits; ++code)
            best = std::min(
                best, std::abs(layer.weight[place] - step * static_cast<float>(code - static_cast<int>(zeros[group]))));
          ASSERT_LE(std::abs(layer.weight[place] - weight[place]), best + 1e-5F * step);
        }
      }
    }
}

TEST(Rtn, MoreBitsMeanLessError) {
  backend::Context context(backend::Device::cpu, 2);
  const test::Layer layer = test::make_layer(context, 40, 128, 9, false);
  core::SoloTeam team;
  double last = std::numeric_limits<double>::infinity();
  for (const int bits : {2, 3, 4, 6, 8}) {
    const double error = rtn_method().quantize(context, team, layer.input(), rtn_parameters(bits, 64)).relative_error;
    EXPECT_LT(error, 0.5 * last);
    last = error;
  }
}

TEST(Rtn, TeamsGiveTheSameBits) {
  backend::Context context(backend::Device::cpu, 1);
  const test::Layer layer = test::make_layer(context, 200, 70, 4, false);
  core::SoloTeam solo;
  const auto alone = rtn_method().quantize(context, solo, layer.input(), rtn_parameters(3, 16));
  for (const int members : {2, 3}) {  // the third member has no tile of rows
    std::vector<QuantResult> results(static_cast<std::size_t>(members));
    test::run_as_team(members, [&](core::Team& team) {
      backend::Context own(backend::Device::cpu, 1);
      results[static_cast<std::size_t>(team.rank())] =
          rtn_method().quantize(own, team, layer.input(), rtn_parameters(3, 16));
    });
    for (const QuantResult& result : results) EXPECT_TRUE(result.encoding == alone.encoding) << members;
  }
}

TEST(Rtn, AWeightOfAnotherShapeThanSaidIsRefused) {
  backend::Context context(backend::Device::cpu, 1);
  const test::Layer layer = test::make_layer(context, 4, 8, 1, false);
  core::SoloTeam team;
  QuantInput input = layer.input();
  input.out_features = 5;
  EXPECT_THROW(rtn_method().quantize(context, team, input, rtn_parameters(3, 16)), core::InternalError);
  input = layer.input();
  input.hessian = nullptr;
  EXPECT_THROW(rtn_method().quantize(context, team, input, rtn_parameters(3, 16)), core::InternalError);
}

}  // namespace
}  // namespace voronoi::quant
