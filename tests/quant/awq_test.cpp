#include "quant/baselines/awq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <memory>

#include "core/error.h"
#include "quant/baselines/rtn.h"
#include "quant/baselines/uniform_method.h"
#include "quant/layers.h"
#include "support/thread_team.h"
#include "support/typed_encoding.h"

namespace voronoi::quant {
namespace {

using core::DType;
using test::decoded;

std::size_t place(std::int64_t i) { return static_cast<std::size_t>(i); }

QuantParameters awq_parameters(int bits, std::int64_t group_size, const std::string& column_scales = "all") {
  QuantParameters p;
  p.method = "awq";
  p.get<UniformParameters>().bits = bits;
  p.get<UniformParameters>().group_size = group_size;
  p.get<AwqParameters>().column_scales = column_scales;
  return p;
}

/// Linears of one input, by name.
struct AwqInputs {
  explicit AwqInputs(std::int64_t n, std::vector<std::pair<std::string, std::int64_t>> shapes) {
    lower = test::make_synthetic_layer(1, n, 9, {0.2, 0.3, 1.2}).lower;
    site.name = "block 0 qkv";
    site.in_features = n;
    site.moments.plain = lower;
    site.input_scale_folds = true;
    for (const auto& [name, out] : shapes) {
      weights[name] = test::make_synthetic_layer(out, n, std::hash<std::string>()(name) % 100).weight;
      site.linears.push_back({name, out});
    }
    site.read_weight = [this](const SiteLinear& linear) { return weights.at(linear.name); };
  }
  QuantInput input(const PreparedSite& prepared, std::size_t i) const {
    const SiteLinear& linear = site.linears[i];
    return {linear.name,       linear.out_features, site.in_features,    weights.at(linear.name),
            &prepared.hessian, DType::f16,          prepared.state.get()};
  }
  std::vector<float> lower;
  std::map<std::string, std::vector<float>> weights;
  SiteInput site;
};

/// tr(D H D^T) of round(W s) / s in fp64, groups as they are, with 1 / s as given.
double plain_loss(const std::vector<float>& weight, const std::vector<float>& lower, std::int64_t n, int bits,
                  std::int64_t group_size, const std::vector<float>& factor) {
  const auto most = static_cast<float>((1 << bits) - 1);
  double loss = 0;
  std::vector<double> error(place(n));
  for (std::size_t row = 0; row < weight.size(); row += place(n)) {
    for (std::int64_t begin = 0; begin < n; begin += group_size) {
      const std::int64_t end = std::min(n, begin + group_size);
      float low = std::numeric_limits<float>::max(), high = -low;
      for (std::int64_t c = begin; c < end; ++c) {
        low = std::min(low, weight[row + place(c)] / factor[place(c)]);
        high = std::max(high, weight[row + place(c)] / factor[place(c)]);
      }
      const UniformGrid grid = UniformGrid::fit(low, high, most, DType::f16);
      for (std::int64_t c = begin; c < end; ++c) {
        const float w = weight[row + place(c)];
        error[place(c)] = static_cast<double>(w) -
                          static_cast<double>(grid.value(grid.code(w / factor[place(c)], most)) * factor[place(c)]);
      }
    }
    for (std::int64_t a = 0; a < n; ++a)
      for (std::int64_t b = 0; b < n; ++b)
        loss += error[place(a)] * error[place(b)] *
                static_cast<double>(lower[place(std::max(a, b) * (std::max(a, b) + 1) / 2 + std::min(a, b))]);
  }
  return loss;
}

/// 1 / s of exponent i / 20 by its definition.
std::vector<float> plain_factor(const std::vector<float>& lower, std::int64_t n, int i, DType dtype) {
  std::vector<double> power;
  for (std::int64_t j = 0; j < n; ++j)
    power.push_back(std::max(std::pow(std::sqrt(static_cast<double>(lower[place(j * (j + 3) / 2)])), i / 20.0), 1e-4));
  const double norm = std::sqrt(*std::ranges::min_element(power) * *std::ranges::max_element(power));
  std::vector<float> factor;
  for (const double value : power) factor.push_back(core::round_to(dtype, static_cast<float>(norm / value)));
  return factor;
}

TEST(Awq, TakesTheExponentOfLeastErrorOfAllLinearsOfTheSite) {
  constexpr std::int64_t n = 50;
  backend::Context context(backend::Device::cpu, 2);
  core::SoloTeam team;
  // Past one tile of rows, the last group short, bits of their own.
  AwqInputs inputs(n, {{"q_a", 140}, {"k_b", 30}});
  const QuantParameters p = awq_parameters(3, 16), other = awq_parameters(2, 16);
  inputs.site.linears[1].parameters = &other;
  const std::unique_ptr<SiteState> state = awq_method().prepare_site(context, team, inputs.site, p);
  const auto& found = dynamic_cast<const AwqSite&>(*state).scale;
  std::vector<double> expected;
  for (int i = 0; i < 20; ++i) {
    const std::vector<float> factor = plain_factor(inputs.lower, n, i, DType::f16);
    expected.push_back(plain_loss(inputs.weights["q_a"], inputs.lower, n, 3, 16, factor) +
                       plain_loss(inputs.weights["k_b"], inputs.lower, n, 2, 16, factor));
  }
  for (std::size_t i = 0; i < 20; ++i)  // in one unit
    EXPECT_NEAR(found.losses[i] / found.losses[0], expected[i] / expected[0], 0.01 * expected[i] / expected[0]) << i;
  EXPECT_EQ(found.exponent, std::ranges::min_element(expected) - expected.begin());
  EXPECT_GT(found.exponent, 0);
  EXPECT_LT(found.losses[place(found.exponent)], 0.9 * found.losses[0]);
  const std::vector<float> factor = plain_factor(inputs.lower, n, found.exponent, DType::f16);
  for (std::size_t c = 0; c < factor.size(); ++c)
    EXPECT_NEAR(core::half_to_float(found.factor[c]), factor[c], 1e-3F * factor[c]) << c;
}

TEST(Awq, ScalesAreJudgedByWhatClipsLeave) {
  constexpr std::int64_t n = 48;
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam team;
  const QuantParameters p = awq_parameters(3, 16);
  std::map<bool, std::array<double, kExponents>> losses;
  for (const bool clipped : {false, true}) {
    const std::string name = clipped ? "v_a" : "q_a";
    AwqInputs inputs(n, {{name, 60}});
    inputs.weights[name] = test::make_synthetic_layer(60, n, 77, {0.4, 0.3, 1.2}).weight;
    const std::unique_ptr<SiteState> state = awq_method().prepare_site(context, team, inputs.site, p);
    losses[clipped] = dynamic_cast<const AwqSite&>(*state).scale.losses;
  }
  // Clips are chosen by the diagonal alone, which is most of it.
  int better = 0;
  for (std::size_t i = 0; i < kExponents; ++i) {
    EXPECT_LT(losses[true][i], 1.02 * losses[false][i]) << i;
    better += losses[true][i] < 0.97 * losses[false][i] ? 1 : 0;
  }
  EXPECT_GE(better, kExponents / 2);
}

TEST(Awq, WithoutScaleAndClipItIsRtn) {
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam team;
  AwqInputs inputs(48, {{"model.layers.0.self_attn.q_proj", 20}});
  const PreparedSite none = prepare_site(context, team, inputs.site, awq_parameters(3, 16, "none"));
  EXPECT_EQ(none.state, nullptr);
  const QuantInput input = inputs.input(none, 0);
  const QuantResult plain = awq_method().quantize(context, team, input, awq_parameters(3, 16, "none"));
  const QuantResult rtn = rtn_method().quantize(context, team, input, awq_parameters(3, 16));
  EXPECT_TRUE(plain.encoding == rtn.encoding);  // no column scales are stored
  EXPECT_FALSE(plain.statistics.contains("clip"));
  EXPECT_FALSE(plain.statistics.contains("scale_exponent"));
  // The scaled one is what the search measured, and never worse than rtn.
  const PreparedSite scaled = prepare_site(context, team, inputs.site, awq_parameters(3, 16));
  const auto& found = dynamic_cast<const AwqSite&>(*scaled.state).scale;
  const QuantResult result = awq_method().quantize(context, team, inputs.input(scaled, 0), awq_parameters(3, 16));
  EXPECT_LE(result.relative_error, rtn.relative_error);
  EXPECT_NEAR(result.relative_error / rtn.relative_error, found.losses[place(found.exponent)] / found.losses[0], 0.01);
  EXPECT_EQ(result.statistics.at("scale_exponent"), found.exponent / 20.0);
}

TEST(Awq, ScalesWhereTheScaleFoldsUnlessItIsToldOtherwise) {
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam team;
  AwqInputs inputs(16, {{"o", 8}});
  for (const bool folds : {false, true}) {
    inputs.site.input_scale_folds = folds;
    const auto is_scaled = [&](const std::string& where) {
      return prepare_site(context, team, inputs.site, awq_parameters(3, 16, where)).state != nullptr;
    };
    EXPECT_EQ(is_scaled("foldable"), folds);
    EXPECT_TRUE(is_scaled("all"));
    EXPECT_FALSE(is_scaled("none"));
  }
  EXPECT_NE(awq_method().where_no_scale_folds(awq_parameters(3, 16, "foldable")), "");
  EXPECT_EQ(awq_method().where_no_scale_folds(awq_parameters(3, 16, "all")), "");
}

TEST(Awq, TheScaleIsTheSitesWhoeverIsLeftToDoAndWhateverMetricALinearHas) {
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam team;
  AwqInputs inputs(40, {{"q", 24}, {"k", 8}, {"v", 8}});
  const QuantParameters p = awq_parameters(2, 8);
  const auto scale_of = [&] {
    return dynamic_cast<const AwqSite&>(*awq_method().prepare_site(context, team, inputs.site, p)).scale;
  };
  const InputScale all = scale_of();
  inputs.site.whole = inputs.site.linears;
  inputs.site.linears.erase(inputs.site.linears.begin());
  EXPECT_EQ(scale_of().factor, all.factor);
  EXPECT_EQ(scale_of().losses, all.losses);
  const std::vector<float> guided = test::make_synthetic_layer(1, 40, 77).lower;
  inputs.site.moments.guided = guided;
  inputs.site.moments.effective_tokens = 1e6;
  inputs.site.hessian = guided;
  EXPECT_EQ(scale_of().factor, all.factor);
  // Held-out tokens count.
  inputs.site.moments.held_out_plain = guided;
  inputs.site.moments.tokens = inputs.site.moments.held_out_tokens = 10;
  EXPECT_NE(scale_of().losses, all.losses);
}

/// The cost of a group's error in its own block of H, in fp64.
double own_cost(const QuantInput& input, std::int64_t row, std::int64_t begin, std::int64_t end,
                const std::vector<float>& quantized) {
  const std::int64_t n = input.in_features;
  const auto error = [&](std::int64_t c) {
    return static_cast<double>(input.weight[place(row * n + c)]) - static_cast<double>(quantized[place(row * n + c)]);
  };
  double cost = 0;
  for (std::int64_t a = begin; a < end; ++a)
    for (std::int64_t b = begin; b < end; ++b)
      cost += error(a) * error(b) * static_cast<double>(input.hessian->h.span()[place(a * n + b)]);
  return cost;
}

TEST(Awq, EveryGroupHasTheClipOfLeastError) {
  constexpr std::int64_t n = 40;
  backend::Context context(backend::Device::cpu, 2);
  core::SoloTeam team;
  AwqInputs inputs(n, {{"model.layers.0.mlp.down_proj", 132}});
  const QuantParameters p = awq_parameters(2, 16);
  const PreparedSite prepared = prepare_site(context, team, inputs.site, p);
  const QuantInput input = inputs.input(prepared, 0);
  const QuantResult result = awq_method().quantize(context, team, input, p);
  const std::vector<float> quantized = decoded(result.encoding);
  std::vector<float> factor;
  for (const std::uint16_t bits : format::uniform_view(result.encoding).column_scale)
    factor.push_back(core::half_to_float(bits));
  std::vector<double> least(132 * 3, std::numeric_limits<double>::infinity());
  for (int i = 0; i < 10; ++i) {
    std::vector<float> tried(input.weight.size());
    for (std::int64_t row = 0; row < 132; ++row)
      for (std::int64_t g = 0; g < 3; ++g) {
        const std::int64_t begin = g * 16, end = std::min(n, begin + 16);
        std::vector<float> scaled;
        float largest = 0;
        for (std::int64_t c = begin; c < end; ++c) {
          scaled.push_back(input.weight[place(row * n + c)] / factor[place(c)]);
          largest = std::max(largest, std::fabs(scaled.back()));
        }
        const float most = largest * (1 - static_cast<float>(i) / 20);
        for (float& value : scaled) value = std::clamp(value, -most, most);
        const auto [low, high] = std::ranges::minmax(scaled);
        const UniformGrid grid = UniformGrid::fit(low, high, 3, DType::f16);
        for (std::int64_t c = begin; c < end; ++c)
          tried[place(row * n + c)] = grid.value(grid.code(scaled[place(c - begin)], 3)) * factor[place(c)];
        double& best = least[place(row * 3 + g)];
        best = std::min(best, own_cost(input, row, begin, end, tried));
      }
  }
  for (std::int64_t row = 0; row < 132; ++row)
    for (std::int64_t g = 0; g < 3; ++g) {
      const double wanted = least[place(row * 3 + g)];
      ASSERT_NEAR(own_cost(input, row, g * 16, std::min(n, g * 16 + 16), quantized), wanted, 1e-3 * wanted)
          << row << ", " << g;
    }
  EXPECT_LT(result.statistics.at("clip"), 1);
  EXPECT_GE(result.statistics.at("clip"), 0.55);
  const QuantResult rtn = rtn_method().quantize(context, team, input, p);
  EXPECT_LT(result.relative_error, 0.8 * rtn.relative_error);
}

TEST(Awq, QueriesAndKeysAreNotClipped) {
  for (const char* name : {"model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.k_proj",
                           "model.layers.3.self_attn.qkv_proj", "q_proj"})
    EXPECT_FALSE(is_clipped(name)) << name;
  for (const char* name : {"model.layers.3.self_attn.v_proj", "model.layers.3.self_attn.o_proj",
                           "model.layers.3.block_sparse_moe.experts.1.w2", "model.layers.3.mlp.gate_up_proj"})
    EXPECT_TRUE(is_clipped(name)) << name;
}

TEST(Awq, ATeamGivesTheSameBytes) {
  backend::Context context(backend::Device::cpu, 2);
  core::SoloTeam alone;
  AwqInputs inputs(40, {{"model.layers.0.mlp.gate_proj", 300}, {"model.layers.0.mlp.up_proj", 60}});
  for (const DType dtype : {DType::f16, DType::bf16}) {
    inputs.site.stored_dtype = dtype;
    const QuantParameters p = awq_parameters(3, 16);
    const PreparedSite one = prepare_site(context, alone, inputs.site, p);
    QuantInput input = inputs.input(one, 0);
    input.stored_dtype = dtype;
    const QuantResult expected = quantize(context, alone, input, p);
    EXPECT_EQ(stored_bits(expected.encoding), planned_bits(p, 300, 40).total());
    for (const int size : {1, 2, 3})
      test::run_as_team(size, [&](core::Team& team) {
        backend::Context own(backend::Device::cpu, size);
        const PreparedSite site = prepare_site(own, team, inputs.site, p);
        EXPECT_EQ(dynamic_cast<const AwqSite&>(*site.state).scale.losses,
                  dynamic_cast<const AwqSite&>(*one.state).scale.losses);
        QuantInput theirs = inputs.input(site, 0);
        theirs.stored_dtype = dtype;
        const QuantResult result = quantize(own, team, theirs, p);
        EXPECT_TRUE(result.encoding == expected.encoding) << size;
        EXPECT_EQ(result.relative_error, expected.relative_error);
        EXPECT_EQ(result.statistics, expected.statistics);
      });
  }
}

TEST(Awq, InputsThatAreNeverMetAndUnitsOutOfRangeLeaveNumbers) {
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam team;
  for (const float unit : {0.0F, 0x1p-100F, 0x1p100F}) {
    AwqInputs inputs(16, {{"down", 8}});
    for (float& value : inputs.lower) value *= unit;
    for (std::size_t j = 0; j < 16; ++j) inputs.lower[3 * 4 / 2 + std::min<std::size_t>(j, 3)] = 0;
    for (std::size_t j = 4; j < 16; ++j) inputs.lower[j * (j + 1) / 2 + 3] = 0;
    const QuantParameters p = awq_parameters(3, 8);
    const PreparedSite site = prepare_site(context, team, inputs.site, p);
    const QuantResult result = quantize(context, team, inputs.input(site, 0), p);
    EXPECT_EQ(find_problem(result.encoding), "");
    EXPECT_LT(result.relative_error, 0.2) << unit;
  }
}

}  // namespace
}  // namespace voronoi::quant
