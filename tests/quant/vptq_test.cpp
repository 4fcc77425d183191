#include "quant/vq/vptq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include "quant/vq/second_order.h"
#include "quant/vq/vector_parameters.h"
#include "quant/vq/vptq_method.h"
#include "quant/vq_layer.h"
#include "support/thread_team.h"
#include "support/typed_encoding.h"

namespace voronoi::quant {
namespace {

Layer make_layer(std::int64_t out, std::int64_t in, bool act_order = true, test::SyntheticSpread spread = {}) {
  return make_named_layer("model.layers.0.mlp.up_proj", 7, out, in, act_order, spread);
}

QuantResult quantize(const Layer& layer, const QuantParameters& parameters, int n_threads = 2) {
  backend::Context context(backend::Device::cpu, n_threads);
  core::SoloTeam team;
  return vptq_method().quantize(context, team, layer.input(), parameters);
}

std::vector<float> decoded_result(const QuantResult& result) { return test::decoded(result.encoding); }

double error_of(const Layer& layer, std::span<const float> quantized) {
  backend::Context context(backend::Device::cpu, 1);
  return relative_hessian_error(context, layer.out, layer.in, layer.weight, quantized, layer.hessian().h);
}

format::VqEncoding vq(const QuantResult& result) { return test::vq_of(result.encoding); }

void expect_same_bytes(const QuantResult& a, const QuantResult& b) {
  EXPECT_EQ(vq(a).indices, vq(b).indices);
  EXPECT_EQ(vq(a).codebook, vq(b).codebook);
  EXPECT_EQ(vq(a).residual_codebook, vq(b).residual_codebook);
  EXPECT_EQ(vq(a).outlier_codebook, vq(b).outlier_codebook);
  EXPECT_EQ(vq(a).outlier_indices, vq(b).outlier_indices);
  EXPECT_EQ(vq(a).scale, vq(b).scale);
  EXPECT_EQ(vq(a).bias, vq(b).bias);
  EXPECT_EQ(vq(a).perm, vq(b).perm);
  EXPECT_EQ(a.relative_error, b.relative_error);
  EXPECT_EQ(a.statistics, b.statistics);
}

/// VPTQ's passes with given scales and biases of the columns.
struct Passed {
  Passed(backend::Context& context, const QuantInput& input, const QuantParameters& parameters, ColumnScale columns)
      : problem(context, team, input, parameters), state(make_state(context, problem.rows, std::move(columns))) {
    std::map<std::string, double> statistics;
    vptq_passes(problem, 1, state, statistics);
  }
  std::vector<float> quantized(const Layer& layer) const { return natural_quantized(layer, problem.rows, state); }
  core::SoloTeam team;
  VqProblem problem;
  VqState state;
};

/// The reference's way with scaled weights: k-means and loop see the scaled weight, but H and its factor as they were.
double error_with_unscaled_metric(const Layer& layer, const QuantParameters& parameters) {
  backend::Context context(backend::Device::cpu, 2);
  const QuantInput input = layer.input();
  const ColumnScale columns = column_scales(context, input);
  std::vector<std::size_t> position(static_cast<std::size_t>(layer.in));
  for (std::size_t p = 0; p < position.size(); ++p) position[static_cast<std::size_t>(layer.hessian().perm[p])] = p;
  Layer scaled = layer;
  for (std::size_t i = 0; i < scaled.weight.size(); ++i) {
    const std::size_t p = position[i % static_cast<std::size_t>(layer.in)];
    scaled.weight[i] = (scaled.weight[i] - columns.bias[p]) / columns.scale[p];
  }
  const QuantInput scaled_input = scaled.input();
  const std::vector<float> ones(columns.scale.size(), 1.0F), zeros(columns.bias.size(), 0.0F);
  std::vector<float> quantized = Passed(context, scaled_input, parameters, {ones, zeros}).quantized(layer);
  for (std::size_t i = 0; i < quantized.size(); ++i) {
    const std::size_t p = position[i % static_cast<std::size_t>(layer.in)];
    quantized[i] = quantized[i] * columns.scale[p] + columns.bias[p];
  }
  return error_of(layer, quantized);
}

TEST(Vptq, TheCoarseStageSeesEveryRow) {
  VqGeometry geometry;
  geometry.v = geometry.unit = 4;
  geometry.n_parts = 2;
  geometry.cuts = {0, 96, 192};  // 24 vectors a column of each part
  geometry.out_features = geometry.cuts.back();
  EXPECT_EQ(coarse_stride(geometry, 4, 1), 1);
  EXPECT_EQ(coarse_stride(geometry, 4, 7), 7);
  EXPECT_EQ(coarse_stride(geometry, 4, 8), 7);
  EXPECT_EQ(coarse_stride(geometry, 4, 6), 5);
  EXPECT_EQ(coarse_stride(geometry, 4, 2), 2);  // none is near
  EXPECT_EQ(coarse_stride(geometry, 4, 24), 23);
  geometry.cuts.back() += 4;  // and one of 25
  geometry.out_features = geometry.cuts.back();
  EXPECT_EQ(coarse_stride(geometry, 4, 5), 7);
  EXPECT_EQ(coarse_stride(geometry, 400, 8), 8);  // no whole vector
}

TEST(Vptq, FeedbackHalvesTheErrorAndMore) {
  const QuantResult result = quantize(make_layer(192, 128), parameters_of(4, 64));
  EXPECT_LT(result.relative_error, 0.5 * result.statistics.at("error_nearest"));
  EXPECT_GT(result.relative_error, 0);
}

TEST(Vptq, ResidualCodebookLowersTheError) {
  const QuantResult result = quantize(make_layer(192, 128), parameters_of(4, 64, 16));
  EXPECT_LT(result.statistics.at("error_pass2"), 0.5 * result.statistics.at("error_pass1"));
  EXPECT_DOUBLE_EQ(result.relative_error, result.statistics.at("error_pass2"));
}

TEST(Vptq, ScaledColumnsAreMeasuredInTheOperatorsOwnUnits) {
  // Weights whose columns differ by factors: the loss counts the large ones, and so must k-means and feedback.
  const Layer layer = make_layer(192, 128, true, {1.0, 0.3, 0.7});
  const QuantParameters parameters = parameters_of(4, 64);
  EXPECT_LT(quantize(layer, parameters).relative_error, 0.9 * error_with_unscaled_metric(layer, parameters));
}

TEST(Vptq, AColumnsUnitChangesNoCode) {
  // Weights of a column times a, inputs over a: the same operator. Powers of two, no damping and natural order keep it
  // exact.
  const test::SyntheticLayer made = test::make_synthetic_layer(192, 64, 7, {0.2, 0.3, 0.3});
  const auto with_units = [&](auto unit) {
    Layer layer{"model.layers.0.mlp.up_proj", 192, 64, made.weight, nullptr};
    std::vector<float> lower = made.lower;
    for (std::size_t i = 0; i < layer.weight.size(); ++i) layer.weight[i] = std::ldexp(layer.weight[i], unit(i % 64));
    for (std::size_t i = 0, at = 0; i < 64; ++i)
      for (std::size_t j = 0; j <= i; ++j, ++at) lower[at] = std::ldexp(lower[at], -unit(i) - unit(j));
    layer.prepare(lower, 0, false);
    EXPECT_EQ(layer.hessian().damping_steps, 0);
    return layer;
  };
  const QuantParameters parameters = parameters_of(4, 32, 8);
  const QuantResult a = quantize(with_units([](std::size_t) { return 0; }), parameters);
  const QuantResult b =
      quantize(with_units([](std::size_t column) { return static_cast<int>(column % 5) - 2; }), parameters);
  EXPECT_EQ(vq(a).codebook, vq(b).codebook);
  EXPECT_EQ(vq(a).residual_codebook, vq(b).residual_codebook);
  EXPECT_EQ(vq(a).indices, vq(b).indices);
  EXPECT_NEAR(a.relative_error, b.relative_error, 1e-5 * a.relative_error);
}

TEST(Vptq, WithoutActOrderTheFactorIsOfTheNaturalOrder) {
  const Layer ordered = make_layer(192, 128, true), natural = make_layer(192, 128, false);
  const QuantParameters parameters = parameters_of(4, 64);
  // The reference's fault: the factor of the ordered inverse, its entries put back one by one.
  Layer wrong = make_layer(192, 128, false);
  const std::span<const float> from = ordered.hessian().factor.span();
  const std::span<float> to = wrong.hessian().factor.span();
  const std::vector<std::int32_t>& perm = ordered.hessian().perm;
  for (std::int64_t i = 0; i < natural.in; ++i)
    for (std::int64_t j = 0; j < natural.in; ++j)
      to[static_cast<std::size_t>(std::int64_t{perm[static_cast<std::size_t>(i)]} * natural.in +
                                  perm[static_cast<std::size_t>(j)])] =
          from[static_cast<std::size_t>(i * natural.in + j)];
  const QuantResult result = quantize(natural, parameters);
  EXPECT_LT(result.relative_error, 0.8 * quantize(wrong, parameters).relative_error);
  EXPECT_LT(quantize(ordered, parameters).relative_error, result.relative_error);
  EXPECT_TRUE(vq(result).perm.empty());
}

TEST(Vptq, OneHugeWeightDoesNotRuinItsColumn) {
  Layer layer = make_layer(192, 128);
  for (std::size_t column = 0; column < 128; column += 8) layer.weight[column * 128 + column] *= 40;
  const QuantParameters parameters = parameters_of(4, 64);
  // The reference's way: each column's range onto [0, 1], which squeezes all other weights into a sliver of it.
  backend::Context context(backend::Device::cpu, 2);
  const QuantInput input = layer.input();
  ColumnScale by_range{std::vector<float>(128), std::vector<float>(128)};
  for (std::size_t p = 0; p < 128; ++p) {
    std::vector<float> column;
    for (std::size_t r = 0; r < 192; ++r)
      column.push_back(layer.weight[r * 128 + static_cast<std::size_t>(layer.hessian().perm[p])]);
    const auto [low, high] = std::ranges::minmax(column);
    by_range.scale[p] = core::round_to(layer.dtype, high - low);
    by_range.bias[p] = core::round_to(layer.dtype, low);
  }
  const Passed passed(context, input, parameters, by_range);
  EXPECT_LT(quantize(layer, parameters).relative_error, 0.8 * error_of(layer, passed.quantized(layer)));
}

class VptqDeterminism : public ::testing::TestWithParam<QuantParameters> {};

TEST_P(VptqDeterminism, SameBytesAtAnyThreadAndTeamSize) {
  const Layer layer = make_layer(302, 96);
  const QuantResult alone = quantize(layer, GetParam(), 1);
  expect_same_bytes(alone, quantize(layer, GetParam(), 1));
  expect_same_bytes(alone, quantize(layer, GetParam(), 3));
  for (const int members : {2, 3, 5}) {
    std::vector<QuantResult> results(static_cast<std::size_t>(members));
    test::run_as_team(members, [&](core::Team& team) {
      backend::Context context(backend::Device::cpu, 1 + team.rank() % 2);
      results[static_cast<std::size_t>(team.rank())] = vptq_method().quantize(context, team, layer.input(), GetParam());
    });
    for (const QuantResult& result : results) expect_same_bytes(alone, result);
  }
}

TEST_P(VptqDeterminism, FeedbackSawWhatTheDecoderGives) {
  Layer layer = make_layer(302, 96);
  layer.dtype = core::DType::bf16;  // coarse: codebooks rounded afterwards would show
  backend::Context context(backend::Device::cpu, 2);
  const QuantInput input = layer.input();
  Passed passed(context, input, GetParam(), column_scales(context, input));
  const std::vector<float> seen = passed.quantized(layer);
  const double error = undamped_error(passed.problem, passed.state);
  const QuantResult result = pack_result(passed.problem, std::move(passed.state), error, {});
  const std::vector<float> decoder = decoded_result(result);
  EXPECT_EQ(seen, decoder);
  EXPECT_NEAR(result.relative_error, error_of(layer, decoder), 1e-4 * result.relative_error);
}

QuantParameters with_groups_and_outliers() {
  QuantParameters parameters = parameters_of(6, 32, 8);
  parameters.get<VectorParameters>().groups = 4;
  parameters.get<VectorParameters>().outlier_percent = 3;
  parameters.get<VectorParameters>().outlier_vector_length = 4;
  parameters.get<VectorParameters>().outlier_centroids = 64;
  return parameters;
}

INSTANTIATE_TEST_SUITE_P(Settings, VptqDeterminism,
                         ::testing::Values(parameters_of(4, 32), parameters_of(8, 64, 16), with_groups_and_outliers()),
                         [](const auto& instance) { return "setting" + std::to_string(instance.index); });

TEST(Vptq, TheSeedDecidesAndIsRecorded) {
  const Layer layer = make_layer(96, 64);
  QuantParameters parameters = parameters_of(4, 64);
  const QuantResult first = quantize(layer, parameters);
  parameters.seed = 5;
  const QuantResult second = quantize(layer, parameters);
  EXPECT_NE(vq(first).codebook, vq(second).codebook);
  EXPECT_EQ(second.statistics.at("seed"), 5);
}

TEST(Vptq, OutliersHaveTheirOwnCodebookAndGroupsTheirs) {
  const Layer layer = make_layer(192, 128);
  QuantParameters parameters = parameters_of(6, 64);
  const double plain = quantize(layer, parameters).relative_error;
  parameters.get<VectorParameters>().outlier_percent = 5;
  parameters.get<VectorParameters>().outlier_centroids = 256;
  const QuantResult outliers = quantize(layer, parameters);
  EXPECT_LT(outliers.relative_error, plain);
  EXPECT_EQ(vq(outliers).outlier_size, 7);
  // The outliers are the inputs with the most energy.
  EXPECT_EQ(vq(outliers).perm.size(), 128U);
  for (std::size_t p = 1; p < 128; ++p) {
    const auto diagonal = [&](std::size_t at) {
      return layer.hessian().h.span()[std::size_t{vq(outliers).perm[at]} * 129];
    };
    EXPECT_GE(diagonal(p - 1), diagonal(p));
  }
  parameters = parameters_of(6, 64);
  parameters.get<VectorParameters>().groups = 4;
  const QuantResult groups = quantize(layer, parameters);
  EXPECT_LT(groups.relative_error, plain);
  EXPECT_EQ(vq(groups).codebook.size(), 4U * 64U * 6U);
  const std::vector<std::uint16_t> perm = vq(groups).perm;
  EXPECT_EQ(std::set<std::uint16_t>(perm.begin(), perm.end()).size(), 128U);
}

TEST(Vptq, TailRowsInfluenceNoWholeVector) {
  // 196 rows in vectors of 8: the last four are a tail. Under equal scales the first 192 rows get what they get without
  // it.
  const Layer with_tail = make_layer(196, 96);
  Layer without = with_tail;
  without.out = 192;
  without.weight.resize(static_cast<std::size_t>(192 * 96));
  backend::Context context(backend::Device::cpu, 2);
  const QuantParameters parameters = parameters_of(8, 64, 8);
  const QuantInput long_input = with_tail.input(), short_input = without.input();
  const ColumnScale columns = column_scales(context, long_input);
  const Passed longer(context, long_input, parameters, columns), shorter(context, short_input, parameters, columns);
  ASSERT_EQ(longer.problem.geometry.n_parts, 1);
  EXPECT_EQ(longer.state.books.main, shorter.state.books.main);
  EXPECT_EQ(longer.state.books.residual, shorter.state.books.residual);
  std::vector<float> head = longer.quantized(with_tail);
  const std::vector<float> tail(head.begin() + 192 * 96, head.end());
  head.resize(without.weight.size());
  EXPECT_EQ(head, shorter.quantized(without));
  // And the tail rows are quantized as well as the others.
  double lost = 0, all = 0;
  for (std::size_t i = 0; i < tail.size(); ++i) {
    const double weight = static_cast<double>(with_tail.weight[192 * 96 + i]);
    lost += std::pow(static_cast<double>(tail[i]) - weight, 2);
    all += weight * weight;
  }
  EXPECT_LT(lost, 0.6 * all);
}

TEST(Vptq, OddLayersPass) {
  QuantParameters parameters = parameters_of(4, 16, 4);
  Layer zero = make_layer(24, 32);
  std::fill(zero.weight.begin(), zero.weight.end(), 0.0F);
  EXPECT_EQ(quantize(zero, parameters).relative_error, 0);
  EXPECT_EQ(decoded_result(quantize(zero, parameters)), zero.weight);

  Layer equal = make_layer(24, 32);  // a column of equal weights has no deviation: its mean is all there is
  for (std::size_t r = 0; r < 24; ++r) equal.weight[r * 32 + 5] = 0.5F;
  const std::vector<float> quantized = decoded_result(quantize(equal, parameters));
  for (std::size_t r = 0; r < 24; ++r) EXPECT_NEAR(quantized[r * 32 + 5], 0.5F, 0.1F);

  const Layer low = make_layer(3, 32);  // fewer rows than a vector has
  EXPECT_LE(quantize(low, parameters).relative_error, 1.0);
  const Layer few = make_layer(8, 4);  // fewer vectors than centroids
  EXPECT_LT(quantize(few, parameters).relative_error, 0.05);
}

}  // namespace
}  // namespace voronoi::quant
