#include "quant/vq/second_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/quantizer.h"
#include "quant/vq/vector_parameters.h"
#include "support/data.h"
#include "support/safetensors_lite.h"

namespace voronoi::quant {
namespace {

/// A golden layer: what the reference was given, and what it answers.
struct Golden {
  test::SafetensorsLite tensors;
  nlohmann::json figures;
  std::int64_t out = 0, in = 0;
  QuantParameters parameters;

  explicit Golden(const std::string& name) : tensors(test::data_path("quantizer-steps/" + name + ".safetensors")) {
    std::ifstream file(test::data_path("quantizer-steps/golden.json"));
    figures = nlohmann::json::parse(file).at(name);
    out = figures.at("out_features");
    in = figures.at("in_features");
    parameters.get<VectorParameters>().vector_length = figures.at("vector_length");
    parameters.get<VectorParameters>().centroids = figures.at("centroids");
    parameters.get<VectorParameters>().residual_centroids = figures.at("residual_centroids");
  }
  std::vector<float> floats(const std::string& name) const { return tensors.f32(name); }
  std::vector<std::int32_t> integers(const std::string& name) const { return tensors.i32(name); }
};

struct Answer {
  std::vector<float> quantized, residual;           ///< [out, in] natural order
  std::vector<std::int32_t> codes, residual_codes;  ///< [vectors of a column, in]
};

/// Runs the loop on raw weights (no scale), rows taken as they are.
struct Way {
  bool second_pass = false, feedback = true, padding_counts = true;
  int n_threads = 1;
};

Answer run_loop(const Golden& golden, const Way& way) {
  const bool second_pass = way.second_pass;
  const std::vector<float> weight = golden.floats("weight");
  QuantParameters parameters = golden.parameters;
  if (!second_pass) parameters.get<VectorParameters>().residual_centroids = 0;
  backend::Context context(backend::Device::cpu, way.n_threads);
  core::SoloTeam team;
  const VqGeometry geometry = make_geometry(parameters, golden.out, golden.in);
  const std::vector<std::int32_t> perm = golden.integers("perm");
  const auto n = static_cast<std::size_t>(golden.in);
  const ColumnScale columns{std::vector<float>(n, 1.0F), std::vector<float>(n, 0.0F)};
  Codebooks books{golden.floats("centroids"), {}, {}};
  if (second_pass) books.residual = golden.floats("res_centroids");
  const VqRows rows = make_rows(context, geometry, team, weight, perm);
  VqState state = make_state(context, rows, columns);
  state.books = books;
  const backend::Array<float> factor(context, golden.floats("factor"));
  const backend::Array<float> residual =
      run_column_loop(context, rows, {factor.data()}, {1, way.feedback, way.padding_counts}, true, state);

  Answer answer;
  answer.quantized.resize(weight.size());
  answer.residual.resize(weight.size());
  answer.codes.resize(static_cast<std::size_t>((golden.out + geometry.v - 1) / geometry.v * golden.in));
  answer.residual_codes.resize(answer.codes.size());
  for (std::int64_t p = 0; p < golden.in; ++p) {
    const std::int64_t column = perm[static_cast<std::size_t>(p)];
    for (std::int64_t r = 0; r < golden.out; ++r) {
      const auto to = static_cast<std::size_t>(r * golden.in + column),
                 from = static_cast<std::size_t>(p * rows.pieces[0].slice.width + r);
      answer.quantized[to] = state.quantized.span()[from];
      answer.residual[to] = residual.span()[from];
    }
    for (std::int64_t i = 0; i * geometry.v < golden.out; ++i) {
      const auto to = static_cast<std::size_t>(i * golden.in + column),
                 from = static_cast<std::size_t>(p * rows.pieces[0].slice.code_stride + i);
      answer.codes[to] = state.codes.span()[from];
      if (second_pass) answer.residual_codes[to] = state.residual_codes.span()[from];
    }
  }
  return answer;
}

double relative_error(const Golden& golden, std::span<const float> quantized) {
  backend::Context context(backend::Device::cpu, 1);
  const backend::Array<float> hessian(context, golden.floats("hessian"));
  return relative_hessian_error(context, golden.out, golden.in, golden.floats("weight"), quantized, hessian);
}

void expect_close(std::span<const float> mine, std::span<const float> theirs, double tolerance) {
  ASSERT_LE(mine.size(), theirs.size());
  double worst = 0;
  for (std::size_t i = 0; i < mine.size(); ++i)
    worst = std::max(worst, static_cast<double>(std::abs(mine[i] - theirs[i])));
  EXPECT_LE(worst, tolerance);
}

class ColumnLoop : public ::testing::TestWithParam<const char*> {};

TEST_P(ColumnLoop, FirstPassIsTheReferencesOwn) {
  VORONOI_NEEDS_DATA("quantizer-steps/golden.json");
  const Golden golden(GetParam());
  for (const int threads : {1, 3}) {
    const Answer answer = run_loop(golden, {.n_threads = threads});
    EXPECT_EQ(answer.codes, golden.integers("pass1_codes"));
    EXPECT_TRUE(std::ranges::equal(answer.quantized, golden.floats("pass1")));
    expect_close(answer.residual, golden.floats("pass1_residual"), 2e-6);
    EXPECT_NEAR(relative_error(golden, answer.quantized), golden.figures.at("pass1_error").get<double>(), 1e-5);
  }
}

TEST_P(ColumnLoop, SecondPassWithResidualIsTheReferencesOwn) {
  VORONOI_NEEDS_DATA("quantizer-steps/golden.json");
  const Golden golden(GetParam());
  if (golden.parameters.get<VectorParameters>().residual_centroids == 0) return;  // nothing to choose
  const Answer answer = run_loop(golden, {.second_pass = true, .n_threads = 2});
  // Main and residual are added in fp32 here and in the reference: the same values to the last bit.
  EXPECT_TRUE(std::ranges::equal(answer.quantized, golden.floats("pass2")));
  EXPECT_NEAR(relative_error(golden, answer.quantized), golden.figures.at("pass2_error").get<double>(), 1e-5);
}

TEST_P(ColumnLoop, WithoutFeedbackIsNearestCentroid) {
  VORONOI_NEEDS_DATA("quantizer-steps/golden.json");
  const Golden golden(GetParam());
  const Answer answer = run_loop(golden, {.feedback = false});
  EXPECT_NEAR(relative_error(golden, answer.quantized), golden.figures.at("plain_nearest_error").get<double>(), 1e-5);
}

TEST_P(ColumnLoop, PaddingChangesNoWholeVector) {
  VORONOI_NEEDS_DATA("quantizer-steps/golden.json");
  const Golden golden(GetParam());
  const Answer answer = run_loop(golden, {.padding_counts = false});
  const std::int64_t whole = golden.out / golden.parameters.get<VectorParameters>().vector_length;
  const std::vector<std::int32_t> theirs = golden.integers("pass1_codes");
  for (std::int64_t i = 0; i < whole * golden.in; ++i)
    ASSERT_EQ(answer.codes[static_cast<std::size_t>(i)], theirs[static_cast<std::size_t>(i)])
        << "vector " << i / golden.in;
  if (golden.out % golden.parameters.get<VectorParameters>().vector_length == 0) return;
  // The tail's own rows are nearer to their weights once the padding has no say.
  const auto tail_error = [&](std::span<const float> quantized) {
    std::vector<float> all = golden.floats("weight");
    for (std::size_t i =
             static_cast<std::size_t>(whole * golden.parameters.get<VectorParameters>().vector_length * golden.in);
         i < all.size(); ++i)
      all[i] = quantized[i];
    return relative_error(golden, all);
  };
  EXPECT_LT(tail_error(answer.quantized), 0.95 * tail_error(golden.floats("pass1")));
}

INSTANTIATE_TEST_SUITE_P(Golden, ColumnLoop, ::testing::Values("vptq-v4", "vptq-v6-tail", "vptq-v8"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace voronoi::quant
