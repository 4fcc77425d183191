// Whole operators quantized on the device against the host: the same orchestration over other kernels, so errors agree
// as far as roundings decide between codes that are about as good, and bytes are the same whoever holds the rows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "gpu/gpu_fixture.h"
#include "quant/aqlm/aqlm_method.h"
#include "quant/baselines/afpq.h"
#include "quant/baselines/uniform_method.h"
#include "quant/gptvq/layout.h"
#include "quant/method.h"
#include "quant/quantizer.h"
#include "quant/trellis/trellis_method.h"
#include "quant/vq/second_order.h"
#include "quant/vq/vector_parameters.h"
#include "quant/vq/voronoi.h"
#include "quant/vq_layer.h"
#include "support/thread_team.h"

namespace voronoi::quant {
namespace {

struct Case {
  std::string name;
  QuantParameters parameters;
  std::int64_t out, in;
};

Case case_of(std::string name, const std::string& method, QuantParameters parameters, std::int64_t out,
             std::int64_t in) {
  parameters.method = method;
  parameters.get<VectorParameters>().kmeans_iterations = 4;
  parameters.get<VoronoiParameters>().rounds = 1;
  parameters.get<VoronoiParameters>().candidates = 3;
  return {std::move(name), parameters, out, in};
}

/// Two parts of rows each, so that a team of two has work for both.
std::vector<Case> cases() {
  QuantParameters everything = parameters_of(4, 8, 8);
  everything.get<VectorParameters>().groups = 2;
  everything.get<VectorParameters>().outlier_percent = 4;
  everything.get<VectorParameters>().outlier_vector_length = 2;
  everything.get<VectorParameters>().outlier_centroids = 4;
  QuantParameters uniform;
  uniform.get<UniformParameters>().bits = 3;
  uniform.get<UniformParameters>().group_size = 16;
  QuantParameters with_gptq = uniform;
  with_gptq.get<AfpqParameters>().with = "gptq";
  QuantParameters groups = uniform;
  groups.get<GptvqParameters>().group_weights = 65 * 40;
  QuantParameters trellis = uniform;
  trellis.get<TrellisParameters>().state_bits = 12;
  trellis.get<TrellisParameters>().sweeps = 1;
  QuantParameters additive;
  additive.get<AqlmParameters>().code_bits = 4;
  additive.get<AqlmParameters>().rounds = 2;
  return {case_of("vptq", "vptq", parameters_of(4, 16), 192, 16),
          case_of("voronoi", "voronoi", parameters_of(4, 8, 4), 192, 10),
          case_of("voronoi_groups_outliers_tail", "voronoi", everything, 195, 10),
          case_of("rtn", "rtn", uniform, 130, 40),
          case_of("gptq", "gptq", uniform, 130, 40),
          case_of("bitdistiller", "bitdistiller", uniform, 130, 40),
          case_of("awq", "awq", uniform, 130, 40),
          case_of("afpq", "afpq", uniform, 130, 40),
          case_of("afpq_gptq", "afpq", with_gptq, 130, 40),
          case_of("gptvq", "gptvq", groups, 130, 40),
          case_of("quip_sharp", "quip_sharp", uniform, 130, 40),
          case_of("trellis", "trellis", trellis, 260, 8),
          case_of("aqlm", "aqlm", additive, 130, 40)};
}

Layer layer_of(const Case& wanted, backend::Device device) {
  return make_named_layer("model.layers.0.mlp.up_proj", 17, wanted.out, wanted.in, true, {}, device);
}

QuantResult quantize(const Case& wanted, const Layer& layer, core::Team& team) {
  return find_method(wanted.parameters.method).quantize(layer.own->context, team, layer.input(), wanted.parameters);
}

class GpuQuant : public test::GpuTest, public ::testing::WithParamInterface<Case> {};
class GpuColumnLoop : public test::GpuTest {};

TEST_P(GpuQuant, ErrorIsTheHosts) {
  const Layer there = layer_of(GetParam(), backend::Device::cuda), here = layer_of(GetParam(), backend::Device::cpu);
  core::SoloTeam team;
  const QuantResult found = quantize(GetParam(), there, team), expected = quantize(GetParam(), here, team);
  std::vector<float> decoded(here.weight.size());
  decode(found.encoding, decoded);
  const double error =
      relative_hessian_error(here.own->context, here.out, here.in, here.weight, decoded, here.hessian().h);
  // Sums of fp32 products in another order.
  EXPECT_NEAR(found.relative_error, error, 2e-4 * error);
  // A code that falls to the other side of a border moves the centroids behind it. The emulator factors as the host
  // does.
  EXPECT_NEAR(found.relative_error, expected.relative_error, (is_emulated() ? 1e-4 : 0.05) * expected.relative_error);
  EXPECT_EQ(stored_bits(found.encoding), stored_bits(expected.encoding));
  if (GetParam().parameters.method == "rtn") {
    EXPECT_TRUE(found.encoding == expected.encoding);
  }
}

TEST_P(GpuQuant, BytesDoNotDependOnTheTeam) {
  core::SoloTeam solo;
  const QuantResult alone = quantize(GetParam(), layer_of(GetParam(), backend::Device::cuda), solo);
  std::vector<QuantResult> results(2);
  test::run_as_team(2, [&](core::Team& team) {
    results[static_cast<std::size_t>(team.rank())] =
        quantize(GetParam(), layer_of(GetParam(), backend::Device::cuda), team);
  });
  for (const QuantResult& result : results) {
    EXPECT_TRUE(result.encoding == alone.encoding);
    EXPECT_EQ(result.relative_error, alone.relative_error);
    EXPECT_EQ(result.statistics, alone.statistics);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, GpuQuant, ::testing::ValuesIn(cases()),
                         [](const auto& instance) { return instance.param.name; });

/// Whole numbers, small enough that every product and sum is exact on any device.
TEST_F(GpuColumnLoop, WhereArithmeticIsExactTheCodesAreTheHosts) {
  const std::int64_t out = 102, in = 10;
  std::vector<float> weight;
  for (std::int64_t i = 0; i < out * in; ++i) weight.push_back(static_cast<float>((i * 37 + i / 7) % 17 - 8));
  std::vector<float> lower;
  for (std::int64_t i = 0; i < in; ++i)
    for (std::int64_t j = 0; j <= i; ++j) lower.push_back(i == j ? static_cast<float>(1 + i % 3) : 0.0F);
  Codebooks books;
  for (int i = 0; i < 32 * 4; ++i) books.main.push_back(static_cast<float>((i * 29) % 19 - 9));
  for (int i = 0; i < 8 * 4; ++i) books.residual.push_back(static_cast<float>((i * 5) % 7 - 3));
  const ColumnScale columns{std::vector<float>(static_cast<std::size_t>(in), 2.0F),
                            std::vector<float>(static_cast<std::size_t>(in), 1.0F)};
  const VqGeometry geometry = make_geometry(parameters_of(4, 32, 8), out, in);
  core::SoloTeam team;
  std::vector<std::vector<std::int32_t>> codes;
  std::vector<std::vector<float>> quantized;
  for (backend::Context* context : {&cpu(), &gpu()}) {
    const PreparedHessian hessian = prepare_hessian(*context, in, lower, 0, true);
    for (const std::int64_t candidates : {1, 4}) {
      const VqRows rows = make_rows(*context, geometry, team, weight, hessian.perm);
      VqState state = make_state(*context, rows, columns);
      state.books = books;
      run_column_loop(*context, rows, {hessian.factor.data()}, {.candidates = candidates}, false, state);
      codes.push_back(state.codes.to_host());
      codes.push_back(state.residual_codes.to_host());
      quantized.push_back(state.quantized.to_host());
    }
  }
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(codes[i], codes[i + 4]) << i;
  for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(quantized[i], quantized[i + 2]) << i;
}

}  // namespace
}  // namespace voronoi::quant
