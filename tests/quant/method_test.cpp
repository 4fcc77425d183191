// A method through the public interface alone: nothing of the toy stands in any file of the program.
#include "quant/method.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/team.h"
#include "quant/memory.h"
#include "quant/shared_site.h"
#include "quant/vq/vector_parameters.h"
#include "support/synthetic_layer.h"
#include "support/temporary.h"
#include "support/thread_team.h"
#include "support/toy_method.h"

namespace voronoi::quant {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class ToyMethod : public ::testing::Test {
 protected:
  ToyMethod() { parameters_.method = "toy"; }
  test::Toy toy_;
  MethodRegistration registration_{toy_};
  QuantParameters parameters_;
};

const core::OptionSpec& option_named(const std::vector<core::OptionSpec>& options, const std::string& name) {
  return *std::find_if(options.begin(), options.end(), [&](const auto& option) { return option.name == name; });
}

TEST_F(ToyMethod, HasOptionsWithHelpRangeAndDefault) {
  const std::vector<core::OptionSpec> options = parameter_options(parameters_);
  const core::OptionSpec& levels = option_named(options, "levels");
  EXPECT_THAT(levels.help, AllOf(HasSubstr("toy: steps"), HasSubstr("[4]")));
  EXPECT_EQ(levels.assign("16"), "");
  EXPECT_EQ(parameters_.get<test::ToyParameters>().levels, 16);
  EXPECT_THAT(levels.assign("17"), HasSubstr("power of two"));
  EXPECT_EQ(parameters_.get<test::ToyParameters>().levels, 16);
  EXPECT_THAT(option_named(options, "centroids").help, HasSubstr("vptq, voronoi: "));
  EXPECT_THAT(option_named(options, "damping").help, Not(HasSubstr("toy")));
  EXPECT_THAT(method_option(parameters_).help, AllOf(HasSubstr("toy: equal steps"), HasSubstr("voronoi")));
  EXPECT_EQ(method_option(parameters_).assign("toy"), "");
}

TEST_F(ToyMethod, TakesSetAndHasAnIdentity) {
  EXPECT_EQ(apply_set(parameters_, "ridge=2.5"), "");
  EXPECT_THAT(apply_set(parameters_, "ridge=-1"), HasSubstr("ridge must be"));
  EXPECT_THAT(apply_set(parameters_, "seed=1"), AllOf(HasSubstr("cannot be set"), HasSubstr("levels")));
  EXPECT_EQ(parameters_json(parameters_).dump(),
            R"({"method":"toy","seed":0,"damping":0.01,"act-order":true,"guided-metric":true,"levels":4,"ridge":2.5})");
}

TEST_F(ToyMethod, IsChecked) {
  EXPECT_THAT(check_parameters(parameters_), IsEmpty());
  parameters_.get<test::ToyParameters>() = {3, -1};
  EXPECT_THAT(check_parameters(parameters_), ElementsAre(HasSubstr("--levels: must be"), HasSubstr("--ridge: must")));
  parameters_.get<test::ToyParameters>() = {2, 0};
  EXPECT_THAT(check_parameters(parameters_), ElementsAre(HasSubstr("--act-order true")));
  parameters_.act_order = false;
  EXPECT_THAT(check_shape(parameters_, 3, 65537), ElementsAre(HasSubstr("[3, 65537] is too wide")));
}

TEST_F(ToyMethod, PlansWhatItStoresAndTakes) {
  EXPECT_EQ(planned_bits(parameters_, 10, 100).indices, 10 * 7 * 32);
  EXPECT_EQ(planned_nominal_bits(parameters_), 2);
  EXPECT_EQ(operator_work(parameters_, 10, 100).column_loop.gemm, 2 * 2 * 10 * 100 * 100);
  EXPECT_EQ(operator_work(parameters_, 300, 100).row_pieces, 3);
  EXPECT_EQ(operator_work(parameters_, 10, 100).exchange_bytes, 1000);
  const std::vector<OperatorShape> operators{{"q", 4096}};
  EXPECT_EQ(site_memory(parameters_, 8, operators, {}, 1, 1).where, "the toys of q");
  const std::vector<LayerCount> layers{{4096, 4096, 3}};
  const auto chosen = find_method("toy").choose_setting(parameters_, 3.4, layers);
  ASSERT_TRUE(chosen);
  EXPECT_EQ(chosen->get<test::ToyParameters>().levels, 8);
  EXPECT_FALSE(find_method("toy").choose_setting(parameters_, 1.5, layers));
}

TEST_F(ToyMethod, LeavesWithItsRegistration) {
  {
    test::Toy again;
    EXPECT_THAT(test::message_of<core::InternalError>([&] { MethodRegistration twice(again); }), HasSubstr("'toy'"));
  }
  EXPECT_THAT(method_names(), ElementsAre("rtn", "gptq", "bitdistiller", "awq", "afpq", "gptvq", "quip_sharp",
                                          "trellis", "aqlm", "vptq", "voronoi", "toy"));
}

/// Takes another unit's name for a parameter of its own.
class Clashing final : public test::Toy {
 public:
  std::string_view name() const override { return "clashing"; }
  const std::vector<Parameter>& parameters() const override {
    static const std::vector<Parameter> parameters{
        integer_parameter("centroids", "no", &test::ToyParameters::levels, std::int64_t{1}, std::int64_t{9})};
    return parameters;
  }
};

TEST_F(ToyMethod, ParametersOfOneNameShareAUnit) {
  const Clashing clashing;
  const std::vector<std::string> before = method_names();
  EXPECT_THAT(test::message_of<core::InternalError>([&] { MethodRegistration second(clashing); }),
              HasSubstr("'centroids'"));
  EXPECT_EQ(method_names(), before);
}

/// A site of two linears on a synthetic Hessian.
struct Site {
  explicit Site(std::int64_t n) : layer(test::make_synthetic_layer(24, n, 3)) {
    input.name = "block 0 mlp";
    input.in_features = n;
    input.linears = {{"up", 24}, {"gate", 24}};
    input.moments.plain = layer.lower;
    input.read_weight = [this](const SiteLinear& linear) {
      read.push_back(linear.name);
      return layer.weight;
    };
  }
  test::SyntheticLayer layer;
  SiteInput input;
  std::vector<std::string> read;
};

TEST_F(ToyMethod, PreparesASiteAndRotatesItsInput) {
  constexpr std::int64_t n = 40;
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam team;
  Site site(n);
  parameters_.act_order = false;
  const PreparedHessian plain = prepare_hessian(context, n, site.layer.lower, parameters_.damping, false);
  parameters_.get<test::ToyParameters>() = {16, 1};
  const PreparedSite prepared = prepare_site(context, team, site.input, parameters_);
  EXPECT_THAT(site.read, ElementsAre("up", "gate"));
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      const float raw = plain.h.span()[static_cast<std::size_t>((i + 1) % n * n + (j + 1) % n)];
      EXPECT_EQ(prepared.hessian.h.span()[static_cast<std::size_t>(i * n + j)], i == j ? raw + 1 : raw);
    }

  QuantInput input{"up", 24, n, site.layer.weight, &prepared.hessian, core::DType::f16, prepared.state.get()};
  const QuantResult result = quantize(context, team, input, parameters_);
  EXPECT_EQ(result.statistics.at("linears_of_the_site"), 2);
  EXPECT_EQ(stored_bits(result.encoding), planned_bits(parameters_, 24, n).total());
  // The layer is the model's own again where it is decoded, and its error that of the model's Hessian, ridge included.
  std::vector<float> decoded(site.layer.weight.size());
  decode(result.encoding, decoded);
  std::vector<float> lower = site.layer.lower;
  for (std::size_t i = 0; i < n; ++i) lower[i * (i + 3) / 2] += 1;
  const PreparedHessian ridged = prepare_hessian(context, n, lower, parameters_.damping, false);
  const double error = relative_hessian_error(context, 24, n, site.layer.weight, decoded, ridged.h);
  EXPECT_NEAR(result.relative_error, error, 1e-6 * error);
  EXPECT_LT(error, 0.05);

  // Every member of a team gives the same.
  test::run_as_team(3, [&](core::Team& members) {
    backend::Context own(backend::Device::cpu, 1);
    EXPECT_EQ(quantize(own, members, input, parameters_).encoding, result.encoding);
  });
}

TEST(Site, OtherMethodsSeeItsHessianAsItIs) {
  constexpr std::int64_t n = 16;
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam team;
  for (const std::string& name : method_names()) {
    Site site(n);
    QuantParameters parameters;
    parameters.method = name;
    if (find_method(name).changes_site(parameters)) continue;
    const PreparedSite prepared = prepare_site(context, team, site.input, parameters);
    const PreparedHessian plain = prepare_hessian(context, n, site.layer.lower, 0.01, true);
    EXPECT_TRUE(std::ranges::equal(prepared.hessian.factor.span(), plain.factor.span()));
    EXPECT_EQ(prepared.state, nullptr);
    EXPECT_THAT(site.read, IsEmpty());
  }
}

std::vector<float> values_of(const backend::Array<float>& matrix) { return matrix.to_host(); }

void expect_same(const PreparedSite& site, const PreparedSite& expected) {
  EXPECT_EQ(site.hessian.n, expected.hessian.n);
  EXPECT_EQ(site.hessian.perm, expected.hessian.perm);
  EXPECT_EQ(site.hessian.damping, expected.hessian.damping);
  EXPECT_EQ(site.hessian.added, expected.hessian.added);
  EXPECT_EQ(site.hessian.guided_share, expected.hessian.guided_share);
  EXPECT_EQ(site.hessian.dead_columns, expected.hessian.dead_columns);
  EXPECT_EQ(values_of(site.hessian.h), values_of(expected.hessian.h));
  EXPECT_EQ(values_of(site.hessian.factor), values_of(expected.hessian.factor));
  EXPECT_EQ(values_of(site.hessian.held_out), values_of(expected.hessian.held_out));
  EXPECT_EQ(values_of(site.target.held_out), values_of(expected.target.held_out));
  EXPECT_EQ(values_of(site.target.cross), values_of(expected.target.cross));
}

TEST(Site, IsPreparedByOneMemberForAll) {
  constexpr std::int64_t n = 16;
  backend::Context context(backend::Device::cpu, 1);
  core::SoloTeam alone;
  for (const std::string& name : method_names()) {
    Site site(n);
    // A column that is never met, other tokens to judge by, and an input that was different before.
    for (std::int64_t j = 0; j < n; ++j)
      for (std::int64_t i = j; i < n; ++i)
        if (i == 3 || j == 3) site.layer.lower[static_cast<std::size_t>(i * (i + 1) / 2 + j)] = 0;
    std::vector<float> held_out = site.layer.lower, cross(n * n);
    for (std::size_t i = 0; i < n; ++i) held_out[i * (i + 3) / 2] *= 1.25F;
    for (std::size_t i = 0; i < cross.size(); ++i) cross[i] = static_cast<float>(i % 7) / 64;
    site.input.moments.tokens = site.input.moments.held_out_tokens = 100;
    site.input.moments.held_out_plain = held_out;
    site.input.moments.cross_plain = site.input.moments.held_out_cross_plain = cross;
    QuantParameters parameters;
    parameters.method = name;
    site.input.read_weight = [&](const SiteLinear&) { return site.layer.weight; };
    SiteInput nothing = site.input;
    nothing.moments = {};
    const PreparedSite expected = prepare_site(context, alone, site.input, parameters);
    const bool is_turned = expected.state != nullptr && expected.state->rotation != nullptr;
    EXPECT_EQ(expected.hessian.dead_columns, is_turned ? 0 : 1) << name;
    for (const std::int64_t piece : {std::int64_t{100}, kSharedPiece})
      test::run_as_team(3, [&](core::Team& team) {
        backend::Context own(backend::Device::cpu, 1);
        PreparedSite mine;
        if (team.rank() == 0) mine = prepare_site(own, alone, site.input, parameters);
        share_prepared(own, team, n, mine, piece);
        expect_same(mine, expected);
      });
    test::run_as_team(2, [&](core::Team& team) {
      backend::Context own(backend::Device::cpu, 1);
      SCOPED_TRACE(name);
      expect_same(prepare_site(own, team, team.rank() == 0 ? site.input : nothing, parameters), expected);
    });
    // What forbids its numbers is thrown by all of them, and none waits.
    site.layer.lower.front() = std::numeric_limits<float>::quiet_NaN();
    const std::string told =
        test::message_of<core::NumericError>([&] { prepare_site(context, alone, site.input, parameters); });
    test::run_as_team(3, [&](core::Team& team) {
      backend::Context own(backend::Device::cpu, 1);
      EXPECT_EQ(test::message_of<core::NumericError>(
                    [&] { prepare_site(own, team, team.rank() == 0 ? site.input : nothing, parameters); }),
                told);
    });
  }
}

TEST_F(ToyMethod, SitesAreAlikeForMethodsThatLeaveThemAsTheyAre) {
  EXPECT_EQ(preparation_key(parameters_), std::nullopt);
  QuantParameters one, other;
  one.method = "vptq";
  other.method = "gptq";
  EXPECT_NE(preparation_key(one), std::nullopt);
  EXPECT_EQ(preparation_key(one), preparation_key(other));
  // Its tokens to judge by are no part of its Hessian.
  other.method = "voronoi";
  EXPECT_NE(preparation_key(one), preparation_key(other));
  other.method = "gptq";
  other.damping *= 2;
  EXPECT_NE(preparation_key(one), preparation_key(other));
  other.damping = one.damping;
  other.act_order = !one.act_order;
  EXPECT_NE(preparation_key(one), preparation_key(other));
  other.act_order = one.act_order;
  other.guided_metric = false;
  EXPECT_NE(preparation_key(one), preparation_key(other));
}

}  // namespace
}  // namespace voronoi::quant
