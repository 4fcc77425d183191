#include "quant/vq/voronoi.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/work_counts.h"
#include "quant/vq/refine.h"
#include "quant/vq/vector_parameters.h"
#include "quant/vq/voronoi_method.h"
#include "quant/vq/vptq.h"
#include "quant/vq/vptq_method.h"
#include "quant/vq_layer.h"
#include "support/thread_team.h"
#include "support/typed_encoding.h"

namespace voronoi::quant {
namespace {

Layer layer_of(std::int64_t out, std::int64_t in) {
  return make_named_layer("model.layers.0.mlp.down_proj", 11, out, in);
}

QuantResult quantize(const Method& method, const Layer& layer, const QuantParameters& parameters) {
  backend::Context context(backend::Device::cpu, 2);
  core::SoloTeam team;
  return method.quantize(context, team, layer.input(), parameters);
}

double decoded_error(const Layer& layer, const QuantResult& result) {
  backend::Context context(backend::Device::cpu, 1);
  std::vector<float> weight(layer.weight.size());
  decode(result.encoding, weight);
  return relative_hessian_error(context, layer.out, layer.in, layer.weight, weight, layer.hessian().h);
}

/// A problem with its codes chosen, for tests of the refiner's parts.
struct Started {
  explicit Started(const Layer& the_layer, const QuantParameters& the_parameters)
      : layer(the_layer),
        parameters(the_parameters),
        input(layer.input()),
        problem(context, team, input, parameters),
        state(make_state(context, problem.rows, column_scales(context, input))) {
    std::map<std::string, double> statistics;
    vptq_passes(problem, parameters.get<VoronoiParameters>().candidates, state, statistics);
  }
  Layer layer;
  QuantParameters parameters;
  backend::Context context{backend::Device::cpu, 2};
  core::SoloTeam team;
  QuantInput input;
  VqProblem problem;
  VqState state;
};

TEST(Voronoi, BeatsGreedyVptq) {
  const Layer layer = layer_of(192, 128);
  const double one_book = quantize(vptq_method(), layer, parameters_of(4, 64)).relative_error;
  const double two_books = quantize(vptq_method(), layer, parameters_of(4, 64, 16)).relative_error;
  EXPECT_LT(quantize(voronoi_method(), layer, parameters_of(4, 64)).relative_error, 0.93 * one_book);
  EXPECT_LT(quantize(voronoi_method(), layer, parameters_of(4, 64, 16)).relative_error, 0.8 * two_books);
}

TEST(Voronoi, JointChoiceOfMainAndResidualBeatsGreedy) {
  const Layer layer = layer_of(192, 128);
  QuantParameters parameters = parameters_of(4, 64, 16);
  parameters.get<VoronoiParameters>().rounds = 0;
  const QuantResult joint = quantize(voronoi_method(), layer, parameters);
  parameters.get<VoronoiParameters>().candidates = 1;
  const QuantResult greedy = quantize(voronoi_method(), layer, parameters);
  EXPECT_LT(joint.relative_error, 0.95 * greedy.relative_error);
  // Without candidates and rounds nothing is left but vptq.
  EXPECT_EQ(test::vq_of(greedy.encoding).indices,
            test::vq_of(quantize(vptq_method(), layer, parameters).encoding).indices);
}

TEST(Voronoi, EveryRoundKeptLowersTheError) {
  QuantParameters parameters = parameters_of(4, 64, 16);
  const Layer layer = layer_of(192, 128);
  const QuantResult result = quantize(voronoi_method(), layer, parameters);
  double before = result.statistics.at("error_pass2");
  const int rounds = static_cast<int>(result.statistics.at("rounds_kept"));
  ASSERT_GE(rounds, 2);
  for (int round = 1; round <= rounds; ++round) {
    const double after = result.statistics.at("error_round_" + std::to_string(round));
    EXPECT_LT(after, before);
    before = after;
  }
  EXPECT_EQ(result.relative_error, before);
  EXPECT_NEAR(result.relative_error, decoded_error(layer, result), 1e-4 * result.relative_error);
}

/// Once it is known how often loops ran that stop by themselves, the plan's law is what was counted, on any team.
TEST(Voronoi, WorkIsWhatIsCounted) {
  const Layer layer = layer_of(192, 128);
  for (const std::int64_t residual : {0, 16})
    for (const int members : {1, 2}) {
      QuantParameters parameters = parameters_of(4, 64, residual);
      parameters.get<VectorParameters>().kmeans_iterations = 3;
      parameters.get<VectorParameters>().kmeans_tolerance = 0;
      parameters.get<VoronoiParameters>().rounds = 1;
      std::vector<QuantResult> results(static_cast<std::size_t>(members));
      const core::WorkCounts before = core::work_done();
      test::run_as_team(members, [&](core::Team& team) {
        backend::Context context(backend::Device::cpu, 1);
        results[static_cast<std::size_t>(team.rank())] =
            voronoi_method().quantize(context, team, layer.input(), parameters);
      });
      const core::WorkCounts did = core::work_done() - before;
      const std::map<std::string, double>& ran = results.front().statistics;
      const OperatorWork law = voronoi_method().work(parameters, layer.out, layer.in);
      const Work work = law.kmeans + law.column_loop + law.repeated * (members - 1) +
                        refine_work(parameters, layer.out, layer.in, {1, ran.at("fit_steps"), ran.at("sweeps"), false});
      EXPECT_NEAR(did[core::Counted::gemm_flops], work.gemm, 0.01 * work.gemm);
      EXPECT_NEAR(did[core::Counted::nearest_flops], work.nearest, 0.02 * work.nearest);
      EXPECT_NEAR(did[core::Counted::seeding_flops], work.seeding, 0.02 * work.seeding);
    }
}

class VoronoiDeterminism : public ::testing::TestWithParam<QuantParameters> {};

TEST_P(VoronoiDeterminism, SameBytesAtAnyThreadAndTeamSize) {
  const Layer layer = layer_of(302, 96);
  const QuantResult alone = quantize(voronoi_method(), layer, GetParam());
  EXPECT_NEAR(alone.relative_error, decoded_error(layer, alone), 1e-4 * alone.relative_error);
  for (const int members : {1, 2, 3}) {
    std::vector<QuantResult> results(static_cast<std::size_t>(members));
    test::run_as_team(members, [&](core::Team& team) {
      backend::Context context(backend::Device::cpu, 1 + team.rank());
      results[static_cast<std::size_t>(team.rank())] =
          voronoi_method().quantize(context, team, layer.input(), GetParam());
    });
    for (const QuantResult& result : results) {
      const format::VqEncoding a = test::vq_of(alone.encoding), b = test::vq_of(result.encoding);
      EXPECT_EQ(a.indices, b.indices);
      EXPECT_EQ(a.codebook, b.codebook);
      EXPECT_EQ(a.residual_codebook, b.residual_codebook);
      EXPECT_EQ(a.outlier_codebook, b.outlier_codebook);
      EXPECT_EQ(a.outlier_indices, b.outlier_indices);
      EXPECT_EQ(a.scale, b.scale);
      EXPECT_EQ(a.bias, b.bias);
      EXPECT_EQ(alone.relative_error, result.relative_error);
      EXPECT_EQ(alone.statistics, result.statistics);
    }
  }
}

QuantParameters groups_and_outliers() {
  QuantParameters parameters = parameters_of(6, 32, 8);
  parameters.get<VectorParameters>().groups = 4;
  parameters.get<VectorParameters>().outlier_percent = 3;
  parameters.get<VectorParameters>().outlier_centroids = 64;
  parameters.get<VoronoiParameters>().rounds = 2;
  return parameters;
}

INSTANTIATE_TEST_SUITE_P(Settings, VoronoiDeterminism, ::testing::Values(parameters_of(4, 32), groups_and_outliers()),
                         [](const auto& instance) { return "setting" + std::to_string(instance.index); });

TEST(Refiner, FittedCodebooksAreTheLeastSquaresSolution) {
  Started started(layer_of(96, 48), parameters_of(4, 16, 4));
  started.layer.dtype = core::DType::f32;  // no rounding: the optimum itself
  started.input.stored_dtype = core::DType::f32;
  Refiner refiner(started.problem, started.state);
  const double before = refiner.update();
  for (int i = 0; i < 20; ++i) {
    refiner.fit_codebooks(50);
    refiner.update();
  }
  const double fitted = refiner.update();
  EXPECT_LT(fitted, 0.999 * before);
  // No single entry can be moved to a lower error.
  for (std::vector<float>* book : {&started.state.books.main, &started.state.books.residual})
    for (std::size_t i = 0; i < book->size(); i += 3)
      for (const float step : {-0.02F, 0.02F}) {
        const float kept = (*book)[i];
        (*book)[i] = kept + step;
        EXPECT_GT(refiner.update(), fitted * (1 - 1e-4));
        (*book)[i] = kept;
      }
}

TEST(Refiner, FittedColumnsAreTheLeastSquaresSolution) {
  Started started(layer_of(96, 48), parameters_of(4, 16));
  started.input.stored_dtype = core::DType::f32;
  Refiner refiner(started.problem, started.state);
  const double before = refiner.update();
  for (int i = 0; i < 20; ++i) {
    refiner.fit_columns(50);
    refiner.update();
  }
  const double fitted = refiner.update();
  EXPECT_LT(fitted, 0.99 * before);
  for (std::vector<float>* values : {&started.state.columns.scale, &started.state.columns.bias})
    for (float& value : *values)
      for (const float factor : {0.98F, 1.02F}) {
        const float kept = value;
        value = kept * factor;
        EXPECT_GT(refiner.update(), fitted * (1 - 1e-4));
        value = kept;
      }
}

TEST(VqState, WhatWasKeptComesBackWhole) {
  Started started(layer_of(96, 48), parameters_of(4, 16, 4));
  VqState& state = started.state;
  VqState kept = state.keep();
  const Codebooks books = state.books;
  const ColumnScale columns = state.columns;
  const std::vector<std::int32_t> codes = state.codes.to_host(), residual_codes = state.residual_codes.to_host();
  const std::vector<float> quantized = state.quantized.to_host();
  Refiner refiner(started.problem, state);
  const double before = refiner.update();
  refiner.fit_codebooks(5);
  refiner.update();
  refiner.fit_columns(5);
  refiner.update();
  refiner.sweep(4);
  EXPECT_NE(state.books.main, books.main);
  EXPECT_NE(state.books.residual, books.residual);
  EXPECT_NE(state.columns.scale, columns.scale);
  EXPECT_NE(state.columns.bias, columns.bias);
  EXPECT_NE(state.codes.to_host(), codes);
  EXPECT_NE(state.residual_codes.to_host(), residual_codes);
  state.restore(std::move(kept));
  EXPECT_EQ(state.books.main, books.main);
  EXPECT_EQ(state.books.residual, books.residual);
  EXPECT_EQ(state.columns.scale, columns.scale);
  EXPECT_EQ(state.columns.bias, columns.bias);
  EXPECT_EQ(state.codes.to_host(), codes);
  EXPECT_EQ(state.residual_codes.to_host(), residual_codes);
  EXPECT_EQ(refiner.update(), before);
  EXPECT_EQ(state.quantized.to_host(), quantized);
}

TEST(Refiner, FitsRoundToTheStoredType) {
  Started started(layer_of(96, 48), parameters_of(4, 16, 4));
  Refiner refiner(started.problem, started.state);
  refiner.update();
  refiner.fit_codebooks(10);
  refiner.update();
  refiner.fit_columns(10);
  for (const std::vector<float>* values : {&started.state.books.main, &started.state.books.residual,
                                           &started.state.columns.scale, &started.state.columns.bias})
    for (const float value : *values) ASSERT_EQ(value, core::round_to(core::DType::f16, value));
}

TEST(Refiner, SweepsEndWhereNoSingleCodeLowersTheError) {
  // More columns than a block has: gradients must reach the other blocks.
  Started started(layer_of(16, 150), parameters_of(4, 16));
  Refiner refiner(started.problem, started.state);
  double error = refiner.update();
  for (int i = 0; i < 60; ++i) {
    const double swept = refiner.sweep(1);
    EXPECT_LE(swept, error * (1 + 1e-5));
    error = swept;
  }
  EXPECT_NEAR(refiner.update(), error, 1e-4 * error);
  const std::span<std::int32_t> codes = started.state.codes.span();
  for (std::size_t at = 0; at < codes.size(); at += 7) {
    const std::int32_t kept = codes[at];
    for (std::int32_t other = 0; other < 16; ++other) {
      codes[at] = other;
      EXPECT_GT(refiner.update(), error * (1 - 1e-4));
    }
    codes[at] = kept;
  }
}

}  // namespace
}  // namespace voronoi::quant
