// Faulty weights and Hessians against every method: finite results no worse than nothing, with what was done recorded,
// or an error that names the layer, the place and the remedy.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "quant/aqlm/aqlm_method.h"
#include "quant/baselines/afpq.h"
#include "quant/baselines/uniform_method.h"
#include "quant/gptvq/layout.h"
#include "quant/layers.h"
#include "quant/method.h"
#include "quant/quantizer.h"
#include "quant/trellis/trellis_method.h"
#include "quant/vq/vector_parameters.h"
#include "support/temporary.h"
#include "support/thread_team.h"

namespace voronoi::quant {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kOut = 98, kIn = 48;  // rows are no multiple of the vector length
constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

/// Weight [kOut, kIn] and packed lower triangle of H before they are damaged.
struct Raw {
  std::vector<float> weight, lower;
  float& w(std::int64_t row, std::int64_t column) { return weight[static_cast<std::size_t>(row * kIn + column)]; }
  float& h(std::int64_t row, std::int64_t column) {
    if (row < column) std::swap(row, column);
    return lower[static_cast<std::size_t>(row * (row + 1) / 2 + column)];
  }
};

Raw healthy() {
  test::SyntheticLayer layer = test::make_synthetic_layer(kOut, kIn, 21);
  return {std::move(layer.weight), std::move(layer.lower)};
}

/// E[x x^T] over so many inputs x drawn by `fill`.
void hessian_of_samples(Raw& raw, std::int64_t samples, const std::function<void(std::vector<double>&)>& change) {
  const core::CounterRandom random(77, 2);
  std::vector<double> sum(raw.lower.size(), 0.0), x(static_cast<std::size_t>(kIn));
  for (std::int64_t s = 0; s < samples; ++s) {
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = random.uniform(static_cast<std::uint64_t>(s) * x.size() + i) - 0.5;
    change(x);
    for (std::size_t i = 0, at = 0; i < x.size(); ++i)
      for (std::size_t j = 0; j <= i; ++j) sum[at++] += x[i] * x[j];
  }
  for (std::size_t i = 0; i < sum.size(); ++i) raw.lower[i] = static_cast<float>(sum[i] / static_cast<double>(samples));
}

void scale_all(std::vector<float>& values, float factor) {
  for (float& value : values) value *= factor;
}

struct Fault {
  const char* name;
  std::function<void(Raw&)> damage;
  double damping = 0.01;          ///< asked for
  bool raises_damping = false;    ///< more is needed
  std::int64_t dead_columns = 0;  ///< that are recorded
  double largest_error = 1.02;    ///< of the relative error; that of the zero matrix is 1
};

const std::vector<Fault>& faults() {
  static const std::vector<Fault> all{
      {"healthy", [](Raw&) {}, 0.01, false, 0, 0.6},
      {"weight_of_zeros", [](Raw& raw) { scale_all(raw.weight, 0); }, 0.01, false, 0, 0},
      {"constant_weight", [](Raw& raw) { raw.weight.assign(raw.weight.size(), 0.125F); }, 0.01, false, 0, 0.01},
      {"constant_column",
       [](Raw& raw) {
         for (std::int64_t r = 0; r < kOut; ++r) raw.w(r, 5) = 0.3F;
       }},
      {"rows_of_zeros",
       [](Raw& raw) {
         for (std::int64_t r = 8; r < 24; ++r)
           for (std::int64_t c = 0; c < kIn; ++c) raw.w(r, c) = 0;
       }},
      {"outlier_1e4", [](Raw& raw) { raw.w(17, 9) = 1e4F; }},
      {"outlier_6e4", [](Raw& raw) { raw.w(17, 9) = -6e4F; }},
      {"subnormal_weights", [](Raw& raw) { scale_all(raw.weight, 1e-38F); }},
      {"weights_below_the_stored_type", [](Raw& raw) { scale_all(raw.weight, 1e-7F); }},
      {"dead_channel",
       [](Raw& raw) {
         for (std::int64_t i = 0; i < kIn; ++i) raw.h(7, i) = raw.h(31, i) = 0;
       },
       0.01, false, 2},
      {"no_input_at_all", [](Raw& raw) { scale_all(raw.lower, 0); }, 0.01, false, kIn},
      {"one_token", [](Raw& raw) { hessian_of_samples(raw, 1, [](std::vector<double>&) {}); }},
      {"fewer_tokens_than_inputs_undamped", [](Raw& raw) { hessian_of_samples(raw, 9, [](std::vector<double>&) {}); },
       0, true},
      {"duplicate_channels_undamped",
       [](Raw& raw) {
         hessian_of_samples(raw, 400, [](std::vector<double>& x) {
           for (std::size_t i = 0; i + 1 < x.size(); i += 2) x[i + 1] = x[i];
         });
       },
       0, true},
      {"condition_1e13_undamped",
       [](Raw& raw) {
         hessian_of_samples(raw, 400, [](std::vector<double>& x) {
           for (std::size_t i = 0; i < x.size(); ++i) x[i] *= std::pow(10.0, -6.5 * static_cast<double>(i) / (kIn - 1));
         });
       },
       0},
      {"one_hot_channel",
       [](Raw& raw) {
         for (std::int64_t i = 0; i < kIn; ++i) raw.h(3, i) *= i == 3 ? 1e12F : 1e6F;
       }},
      {"diagonal_below_zero_by_rounding",
       [](Raw& raw) {
         for (std::int64_t i = 0; i < kIn; ++i) raw.h(4, i) = i == 4 ? -1e-9F : 0;
       },
       0.01, false, 1},
      {"indefinite",
       [](Raw& raw) {
         const float bound = std::sqrt(raw.h(10, 10) * raw.h(11, 11));
         raw.h(10, 11) = 1.5F * bound;
       },
       1e-4, true},
      {"huge_inputs", [](Raw& raw) { scale_all(raw.lower, 0x1p110F); }},
      {"tiny_inputs", [](Raw& raw) { scale_all(raw.lower, 0x1p-110F); }},
  };
  return all;
}

struct MethodCase {
  const char* name;
  QuantParameters parameters;
};

const std::vector<MethodCase>& method_cases() {
  static const std::vector<MethodCase> all = [] {
    std::vector<MethodCase> list;
    const auto add = [&](const char* name, const char* method, const std::function<void(QuantParameters&)>& set) {
      QuantParameters parameters;
      parameters.method = method;
      parameters.get<UniformParameters>().bits = 3;
      parameters.get<UniformParameters>().group_size = 16;
      parameters.get<VectorParameters>().centroids = 32;
      parameters.get<VectorParameters>().outlier_centroids = 16;
      set(parameters);
      list.push_back({name, parameters});
    };
    add("rtn", "rtn", [](QuantParameters&) {});
    add("gptq", "gptq", [](QuantParameters&) {});
    add("bitdistiller", "bitdistiller", [](QuantParameters&) {});
    add("quip_sharp", "quip_sharp", [](QuantParameters&) {});
    add("trellis", "trellis", [](QuantParameters& p) { p.get<TrellisParameters>().state_bits = 12; });
    add("awq", "awq", [](QuantParameters&) {});
    add("afpq", "afpq", [](QuantParameters&) {});
    add("afpq_gptq", "afpq", [](QuantParameters& p) { p.get<AfpqParameters>() = {"floating", "gptq"}; });
    add("gptq_natural_order", "gptq", [](QuantParameters& p) { p.act_order = false; });
    add("gptvq", "gptvq", [](QuantParameters& p) { p.get<GptvqParameters>().group_weights = 1000; });
    add("gptvq_block_scales", "gptvq", [](QuantParameters& p) {
      p.act_order = false;
      p.get<GptvqParameters>().scale_block = 16;
      p.get<GptvqParameters>().codebook_bits = 16;
    });
    add("aqlm", "aqlm", [](QuantParameters& p) { p.get<AqlmParameters>().code_bits = 5; });
    for (const char* method : {"vptq", "voronoi"}) {
      const bool ours = std::string(method) == "voronoi";
      add(ours ? "voronoi" : "vptq", method, [](QuantParameters&) {});
      add(ours ? "voronoi_residual" : "vptq_residual", method,
          [](QuantParameters& p) { p.get<VectorParameters>().residual_centroids = 16; });
      add(ours ? "voronoi_outliers" : "vptq_outliers", method, [](QuantParameters& p) {
        p.get<VectorParameters>().residual_centroids = 16;
        p.get<VectorParameters>().outlier_percent = 5;
      });
      add(ours ? "voronoi_groups" : "vptq_groups", method,
          [](QuantParameters& p) { p.get<VectorParameters>().groups = 4; });
    }
    return list;
  }();
  return all;
}

test::Layer prepared(backend::Context& context, Raw raw, double damping, bool act_order) {
  test::Layer layer;
  layer.out_features = kOut;
  layer.in_features = kIn;
  layer.weight = std::move(raw.weight);
  layer.hessian = prepare_hessian(context, kIn, raw.lower, damping, act_order);
  return layer;
}

class Faults : public ::testing::TestWithParam<std::tuple<std::size_t, std::size_t>> {
 protected:
  const Fault& fault() const { return faults()[std::get<0>(GetParam())]; }
  const MethodCase& method() const { return method_cases()[std::get<1>(GetParam())]; }
  QuantResult run(const test::Layer& layer, core::DType dtype = core::DType::f16) {
    core::SoloTeam alone;
    return quantize(context_, alone, layer.input(dtype), method().parameters);
  }
  backend::Context context_{backend::Device::cpu, 1};
};

TEST_P(Faults, GivesFiniteNumbersNoWorseThanNoneAndRecordsWhatWasDone) {
  for (const core::DType dtype : {core::DType::f16, core::DType::bf16}) {
    SCOPED_TRACE(core::dtype_name(dtype));
    Raw raw = healthy();
    fault().damage(raw);
    const test::Layer layer = prepared(context_, raw, fault().damping, method().parameters.act_order);
    EXPECT_EQ(layer.hessian.damping_steps > 0, fault().raises_damping);
    EXPECT_EQ(layer.hessian.dead_columns, fault().dead_columns);
    const QuantResult result = run(layer, dtype);
    EXPECT_EQ(find_problem(result.encoding), "");
    std::vector<float> decoded(layer.weight.size());
    decode(result.encoding, decoded);
    for (const float value : decoded) ASSERT_LE(std::fabs(value), kLargestWeight);
    ASSERT_TRUE(std::isfinite(result.relative_error));
    EXPECT_GE(result.relative_error, 0);
    EXPECT_LE(result.relative_error, fault().largest_error);
    for (const auto& [name, value] : result.statistics) EXPECT_TRUE(std::isfinite(value)) << name;
    const std::string& name = method().parameters.method;
    if (name == "rtn" || name == "bitdistiller" || name == "awq" || std::string(method().name) == "afpq")
      continue;  // they do not use the factor
    EXPECT_EQ(result.statistics.at("damping"), layer.hessian.damping);
    EXPECT_EQ(result.statistics.at("damping_steps") > 0, fault().raises_damping);
    EXPECT_EQ(result.statistics.at("dead_columns"), static_cast<double>(fault().dead_columns));
    EXPECT_TRUE(!fault().raises_damping || result.statistics.at("damping") > fault().damping);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Faults,
                         ::testing::Combine(::testing::Range<std::size_t>(0, faults().size()),
                                            ::testing::Range<std::size_t>(0, method_cases().size())),
                         [](const auto& instance) {
                           return std::string(faults()[std::get<0>(instance.param)].name) + "_" +
                                  method_cases()[std::get<1>(instance.param)].name;
                         });

class EveryMethod : public ::testing::TestWithParam<std::size_t> {
 protected:
  const QuantParameters& parameters() const { return method_cases()[GetParam()].parameters; }
  QuantResult run(const test::Layer& layer) {
    core::SoloTeam alone;
    return quantize(context_, alone, layer.input(), parameters());
  }
  backend::Context context_{backend::Device::cpu, 1};
};

TEST_P(EveryMethod, RefusesAWeightThatItCannotHoldByLayerPlaceAndValue) {
  for (const auto& [bad, text] :
       {std::pair{kNan, "nan"}, {kInf, "inf"}, {-kInf, "-inf"}, {3e38F, "3000000"}, {-7e4F, "-70000"}}) {
    Raw raw = healthy();
    raw.w(17, 9) = bad;
    const test::Layer layer = prepared(context_, raw, 0.01, parameters().act_order);
    const std::string message = test::message_of<core::NumericError>([&] { run(layer); });
    EXPECT_THAT(message, HasSubstr("model.layers.0.mlp.up_proj: weight [17, 9] is "));
    EXPECT_THAT(message, HasSubstr(text));
    EXPECT_THAT(message, HasSubstr("65504"));
  }
}

TEST_P(EveryMethod, HoldsTheLargestWeightOrSaysThatItCannot) {
  for (const float largest : {65504.0F, -65504.0F}) {
    Raw raw = healthy();
    raw.w(17, 9) = largest;
    const test::Layer layer = prepared(context_, raw, 0.01, parameters().act_order);
    try {
      const QuantResult result = run(layer);
      std::vector<float> decoded(raw.weight.size());
      decode(result.encoding, decoded);
      for (const float value : decoded) ASSERT_LE(std::fabs(value), kLargestWeight);
      EXPECT_LE(result.relative_error, 1.02);
    } catch (const core::NumericError& error) {
      EXPECT_THAT(error.what(), HasSubstr("model.layers.0.mlp.up_proj: weight [17, 9] decodes to "));
    }
  }
}

TEST_P(EveryMethod, AllMembersOfATeamRefuseAlike) {
  Raw raw = healthy();
  raw.w(97, 47) = kNan;  // of the last member's rows
  const test::Layer layer = prepared(context_, raw, 0.01, parameters().act_order);
  std::vector<std::string> messages(3);
  test::run_as_team(3, [&](core::Team& team) {
    backend::Context context(backend::Device::cpu, 1);
    messages[static_cast<std::size_t>(team.rank())] =
        test::message_of<core::NumericError>([&] { quantize(context, team, layer.input(), parameters()); });
  });
  EXPECT_THAT(messages, testing::Each(HasSubstr("weight [97, 47] is nan")));
}

TEST_P(EveryMethod, DoesNotDependOnTheUnitOfTheHessian) {
  const Raw plain = healthy();
  const QuantResult expected = run(prepared(context_, plain, 0.01, parameters().act_order));
  for (const float unit : {0x1p+100F, 0x1p-90F}) {
    Raw scaled = plain;
    scale_all(scaled.lower, unit);
    const test::Layer layer = prepared(context_, scaled, 0.01, parameters().act_order);
    EXPECT_NE(layer.hessian.unit_exponent, 0);
    const QuantResult result = run(layer);
    EXPECT_EQ(result.encoding, expected.encoding);
    EXPECT_EQ(result.relative_error, expected.relative_error);
    EXPECT_EQ(result.statistics, expected.statistics);
  }
}

TEST_P(EveryMethod, GivesNothingForAWeightOfZeros) {
  Raw raw = healthy();
  scale_all(raw.weight, 0);
  const QuantResult result = run(prepared(context_, raw, 0.01, parameters().act_order));
  EXPECT_EQ(result.relative_error, 0);
  std::vector<float> decoded(raw.weight.size(), 1.0F);
  decode(result.encoding, decoded);
  EXPECT_EQ(decoded, raw.weight);
}

INSTANTIATE_TEST_SUITE_P(All, EveryMethod, ::testing::Range<std::size_t>(0, method_cases().size()),
                         [](const auto& instance) { return std::string(method_cases()[instance.param].name); });

TEST(Soundness, AnEncodingThatDecodesAboveF16IsNotLetThrough) {
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam alone;
  QuantParameters parameters;
  parameters.method = "rtn";
  parameters.get<UniformParameters>().bits = 2;
  parameters.get<UniformParameters>().group_size = 16;
  Raw raw = healthy();
  raw.w(0, 0) = 65504.0F;  // the step 65504 / 3 is rounded up in F16: 65520
  const test::Layer layer = prepared(context, raw, 0.01, false);
  const std::string message =
      test::message_of<core::NumericError>([&] { quantize(context, alone, layer.input(), parameters); });
  EXPECT_THAT(message, HasSubstr("model.layers.0.mlp.up_proj: weight [0, 0] decodes to 65520"));
  EXPECT_THAT(message, HasSubstr("--outlier-percent"));
}

TEST(Soundness, ACodebookThatF16CannotHoldIsNamedWithTheRemedy) {
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam alone;
  QuantParameters parameters;
  parameters.method = "vptq";
  parameters.get<VectorParameters>().centroids = 32;
  parameters.get<VectorParameters>().residual_centroids = 16;
  Raw raw = healthy();
  // All but the first channel repeat the first one, much smaller: the first one's errors are fed back to them many
  // million times over.
  hessian_of_samples(raw, 400, [](std::vector<double>& x) {
    for (std::size_t i = 1; i < x.size(); ++i) x[i] = 1e-9 * (x[0] + 0.05 * x[i]);
  });
  const test::Layer layer = prepared(context, raw, 0, true);
  ASSERT_EQ(layer.hessian.damping_steps, 0);
  const std::string message =
      test::message_of<core::NumericError>([&] { quantize(context, alone, layer.input(), parameters); });
  EXPECT_THAT(message, HasSubstr("model.layers.0.mlp.up_proj: codebook residual: a centroid is beyond what F16 holds"));
  EXPECT_THAT(message, HasSubstr("--damping"));
}

TEST(Soundness, AnErrorBelowZeroByMoreThanRoundingIsNoFigure) {
  EXPECT_EQ(relative_error_of(1, 4), 0.25);
  EXPECT_EQ(relative_error_of(-1e-6, 1), 0);
  EXPECT_EQ(relative_error_of(1, 0), 0);
  EXPECT_THAT(test::message_of<core::NumericError>([] { relative_error_of(-0.5, 2); }),
              testing::AllOf(HasSubstr("is -0.25"), HasSubstr("--damping")));
}

TEST(Soundness, ADiagonalFarBelowZeroIsStillRefused) {
  backend::Context context(backend::Device::cpu, 1);
  Raw raw = healthy();
  raw.h(4, 4) = -0.01F * raw.h(0, 0);
  EXPECT_THAT(test::message_of<core::NumericError>([&] { prepare_hessian(context, kIn, raw.lower, 0.01, true); }),
              HasSubstr("row 4"));
}

}  // namespace
}  // namespace voronoi::quant
