#include "planning/bits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "jobs/quantize_options.h"
#include "planning/model_sizes.h"
#include "quant/baselines/uniform_method.h"
#include "quant/method.h"
#include "quant/vq/vector_parameters.h"

namespace voronoi::jobs {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

/// Linears of a block of a Llama-like model.
std::vector<quant::LayerCount> block_of(std::int64_t hidden, std::int64_t inner, std::int64_t kv) {
  return {{hidden, hidden, 2}, {kv, hidden, 2}, {inner, hidden, 2}, {hidden, inner, 1}};
}

TEST(Bits, ReadyConfigsAreWhatBitsChoosesAndKeepToTheirBits) {
  const std::map<std::string, std::vector<std::vector<quant::LayerCount>>> classes{
      {"small", {block_of(576, 1536, 192)}},
      {"1b", {block_of(2048, 8192, 512), block_of(3072, 8192, 1024)}},
      {"7b",
       {planning::layer_counts(planning::read_model_config("llama-2-7b")),
        planning::layer_counts(planning::read_model_config("llama-2-13b")),
        planning::layer_counts(planning::read_model_config("llama-3.1-8b")),
        planning::layer_counts(planning::read_model_config("mistral-7b"))}},
      {"30b",
       {planning::layer_counts(planning::read_model_config("llama-2-70b")),
        planning::layer_counts(planning::read_model_config("qwen2.5-72b"))}},
      {"400b", {planning::layer_counts(planning::read_model_config("llama-3.1-405b"))}}};
  for (const auto& [size, models] : classes)
    for (const char* bits : {"1.5", "2", "2.3", "3", "4"}) {
      const std::string file = std::string(VORONOI_CONFIGS) + "/voronoi-" + bits + "bit-" + size + ".cfg";
      run::Settings options;
      EXPECT_THAT(parse(quantize_command(options), {"--config", file}, true).problems, ::testing::IsEmpty()) << file;
      EXPECT_THAT(quant::check_parameters(options.parameters), ::testing::IsEmpty()) << file;
      const double wanted = std::stod(bits);
      const auto chosen =
          quant::find_method(options.parameters.method).choose_setting(options.parameters, wanted, models.front());
      ASSERT_TRUE(chosen.has_value());
      EXPECT_EQ(options.parameters.get<quant::VectorParameters>().vector_length,
                chosen->get<quant::VectorParameters>().vector_length)
          << file;
      EXPECT_EQ(options.parameters.get<quant::VectorParameters>().centroids,
                chosen->get<quant::VectorParameters>().centroids)
          << file;
      EXPECT_EQ(options.parameters.get<quant::VectorParameters>().residual_centroids,
                chosen->get<quant::VectorParameters>().residual_centroids)
          << file;
      for (const auto& layers : models) {
        const double true_bits = quant::true_bits(options.parameters, layers);
        EXPECT_LE(true_bits, wanted * (1 + quant::kBitsMargin)) << file;
        EXPECT_GE(true_bits, 0.9 * wanted) << file;
      }
    }
}

TEST(Bits, ConfigsOfGptvqAreThePapersSettings) {
  for (const int bits : {2, 3, 4}) {
    const std::string file = std::string(VORONOI_CONFIGS) + "/gptvq-" + std::to_string(bits) + "bit.cfg";
    run::Settings options;
    EXPECT_THAT(parse(quantize_command(options), {"--config", file}, true).problems, ::testing::IsEmpty()) << file;
    EXPECT_THAT(quant::check_parameters(options.parameters), ::testing::IsEmpty()) << file;
    // What stands there is what --bits alone means.
    quant::QuantParameters by_default;
    by_default.method = "gptvq";
    by_default.get<quant::UniformParameters>().bits = bits;
    EXPECT_EQ(quant::find_method("gptvq").setting(options.parameters), quant::find_method("gptvq").setting(by_default));
    for (const char* model : {"llama-2-7b", "llama-3.1-70b"})
      EXPECT_NEAR(quant::true_bits(options.parameters, planning::layer_counts(planning::read_model_config(model))),
                  bits + 0.125, 0.01)
          << file << " " << model;
  }
}

TEST(Bits, ReadyConfigsOfLatticeAndTrellisCodesKeepToTheirs) {
  for (const auto& [method, bits] : {std::pair<std::string, int>{"quip_sharp", 2},
                                     {"quip_sharp", 3},
                                     {"quip_sharp", 4},
                                     {"trellis", 2},
                                     {"trellis", 3},
                                     {"trellis", 4}}) {
    const std::string file = std::string(VORONOI_CONFIGS) + "/" + method + "-" + std::to_string(bits) + "bit.cfg";
    run::Settings options;
    EXPECT_THAT(parse(quantize_command(options), {"--config", file}, true).problems, ::testing::IsEmpty()) << file;
    EXPECT_THAT(quant::check_parameters(options.parameters), ::testing::IsEmpty()) << file;
    EXPECT_EQ(options.parameters.method, method);
    EXPECT_NEAR(quant::true_bits(options.parameters, block_of(576, 1536, 192)), bits + 0.003, 0.0005);
  }
}

TEST(Bits, AdditiveCodesPayForTheirCodebooks) {
  const quant::Method& method = quant::find_method("aqlm");
  const auto setting = [&](const char* model, double bits) {
    quant::QuantParameters base;
    base.method = "aqlm";
    const auto layers = planning::layer_counts(planning::read_model_config(model));
    const auto chosen = method.choose_setting(base, bits, layers);
    if (!chosen) return std::string("none");
    EXPECT_LE(quant::true_bits(*chosen, layers), bits * (1 + quant::kBitsMargin));
    return method.setting(*chosen);
  };
  // The papers' settings: 2.29 bits for 7 B with 65536 centroids, which 70 B afford at 2.07.
  EXPECT_EQ(setting("llama-2-7b", 2), "2x8 bits for groups of 8");
  EXPECT_EQ(setting("llama-2-7b", 2.3), "1x16 bits for groups of 8");
  EXPECT_EQ(setting("llama-3.1-70b", 2.1), "1x16 bits for groups of 8");
  EXPECT_EQ(setting("llama-2-7b", 3), "3x8 bits for groups of 8");
  EXPECT_EQ(setting("llama-2-7b", 4), "4x8 bits for groups of 8");
  for (const int bits : {2, 3, 4}) {
    const std::string file = std::string(VORONOI_CONFIGS) + "/aqlm-" + std::to_string(bits) + "bit.cfg";
    run::Settings options;
    EXPECT_THAT(parse(quantize_command(options), {"--config", file}, true).problems, ::testing::IsEmpty()) << file;
    EXPECT_THAT(quant::check_parameters(options.parameters), ::testing::IsEmpty()) << file;
    EXPECT_EQ(options.parameters.method, "aqlm");
    // 32768 bits a codebook and linear of SmolLM2-135M: 0.065 a weight.
    EXPECT_NEAR(quant::true_bits(options.parameters, block_of(576, 1536, 192)), bits * 1.0648 + 0.0234, 0.001);
  }
}

TEST(Bits, LatticeCodesStayWhereTheyAreTunedAndHaveTheirOwnTarget) {
  run::Settings options;
  options.parameters.method = "quip_sharp";
  options.calibration = "sequential";
  options.target = "asymmetric";
  options.tune = "end-to-end,codes";
  EXPECT_THAT(run::check(options),
              ::testing::AllOf(Contains(HasSubstr("--target asymmetric: not with --method quip_sharp")),
                               Contains(HasSubstr("--tune-phases codes: codes of --method quip_sharp stay"))));
  options.target = "plain";
  options.tune = "block,end-to-end";
  EXPECT_THAT(run::check(options), ::testing::Not(Contains(HasSubstr("quip_sharp"))));
}

TEST(Bits, ConfigsOfPublishedMethodsStoreAboutWhatTheirNamesSay) {
  const std::vector<quant::LayerCount> layers = planning::layer_counts(planning::read_model_config("llama-2-7b"));
  for (const auto& [name, bits, most] : {std::tuple{"awq-2bit", 2, 2.2},
                                         {"awq-3bit", 3, 3.2},
                                         {"awq-4bit", 4, 4.2},
                                         {"afpq-3bit", 3, 3.3},
                                         {"afpq-4bit", 4, 4.3}}) {
    const std::string file = std::string(VORONOI_CONFIGS) + "/" + name + ".cfg";
    run::Settings options;
    EXPECT_THAT(parse(quantize_command(options), {"--config", file}, true).problems, ::testing::IsEmpty()) << file;
    EXPECT_THAT(quant::check_parameters(options.parameters), ::testing::IsEmpty()) << file;
    EXPECT_EQ(quant::planned_nominal_bits(options.parameters), bits) << file;
    EXPECT_LE(quant::true_bits(options.parameters, layers), most) << file;
  }
}

TEST(Bits, ConflictsWithOptionsThatSayTheSame) {
  run::Settings options;
  EXPECT_THAT(
      parse(quantize_command(options), {"--method", "voronoi", "--bits", "2.3", "--centroids", "256"}, true).problems,
      ::testing::IsEmpty());
  EXPECT_THAT(run::check_bits(options), Contains(::testing::AllOf(HasSubstr("--centroids"), HasSubstr("--bits 2.3"))));
  options = {};
  EXPECT_THAT(parse(quantize_command(options), {"--method", "gptq", "--bits", "2.3"}, true).problems,
              ::testing::IsEmpty());
  EXPECT_THAT(run::check_bits(options), Contains(HasSubstr("whole bits")));
  options = {};
  EXPECT_THAT(parse(quantize_command(options), {"--method", "gptq", "--bits", "3"}, true).problems,
              ::testing::IsEmpty());
  EXPECT_THAT(run::check_bits(options), ::testing::IsEmpty());
  EXPECT_EQ(options.parameters.get<quant::UniformParameters>().bits, 3);
  options = {};
  EXPECT_THAT(parse(quantize_command(options), {"--bits", "9"}, true).problems, Contains(HasSubstr("--bits")));
  options.bits = 0.4;
  EXPECT_THROW(planning::resolve_bits(options, planning::read_model_config("llama-2-7b")), core::ConfigError);
}

quant::Rule rule_of(const std::string& text) {
  quant::Rule rule;
  EXPECT_EQ(quant::parse_rule(text, rule), "");
  return rule;
}

TEST(Bits, OfARuleAreForItsLinearsAndThoseOfTheRunForTheRest) {
  const model::ModelConfig config = planning::read_model_config("llama-2-7b");
  run::Settings options;
  options.parameters.method = "voronoi";
  options.bits = 2;
  options.rules = {rule_of("*.down_proj bits=4"), rule_of("*.v_proj quantize=false"),
                   rule_of("*.o_proj kmeans-iterations=9")};
  planning::resolve_bits(options, config);
  const quant::RunParameters run = run::run_parameters(options);
  const auto bits = [&](const std::string& linear, std::int64_t out, std::int64_t in) {
    return quant::true_bits(*run.of("model.layers.5." + linear), std::vector<quant::LayerCount>{{out, in, 1}});
  };
  EXPECT_NEAR(bits("mlp.down_proj", 4096, 11008), 4, 0.2);
  EXPECT_NEAR(bits("mlp.up_proj", 11008, 4096), 2, 0.1);
  EXPECT_EQ(run.of("model.layers.5.self_attn.v_proj"), nullptr);
  EXPECT_EQ(bits("self_attn.o_proj", 4096, 4096), bits("self_attn.q_proj", 4096, 4096));
  // What was chosen stands in the rule, as the identity of the run tells it.
  EXPECT_THAT(quant::rule_text(options.rules[0]),
              ::testing::AllOf(HasSubstr("*.down_proj vector-length="), HasSubstr("residual-centroids=")));
  options = {};
  options.parameters.method = "gptq";
  options.rules = {rule_of("*.down_proj bits=4")};
  planning::resolve_bits(options, config);
  EXPECT_EQ(run::run_parameters(options).of("model.layers.0.mlp.down_proj")->get<quant::UniformParameters>().bits, 4);
}

TEST(Bits, OfRulesThatCannotBeAreRefusedByName) {
  const model::ModelConfig config = planning::read_model_config("llama-2-7b");
  const auto refused = [&](const std::vector<quant::Rule>& rules) -> std::string {
    run::Settings options;
    options.rules = rules;
    options.rules.front().where = "mixed.cfg: [[rules]] 1 (line 3)";
    try {
      planning::resolve_bits(options, config);
    } catch (const core::ConfigError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(refused({rule_of("*.down bits=3"), rule_of("*.up_proj bits=3")}),
              ::testing::AllOf(HasSubstr("mixed.cfg: [[rules]] 1 (line 3)"), HasSubstr("*.down"),
                               HasSubstr("matches no linear"), HasSubstr("model.layers.")));
  EXPECT_THAT(refused({rule_of("*.v_proj bits=0.5")}),
              ::testing::AllOf(HasSubstr("mixed.cfg: [[rules]] 1"), HasSubstr("the least is")));
  EXPECT_THAT(refused({rule_of("* quantize=false")}), HasSubstr("no linear of the model to quantize"));
}

}  // namespace
}  // namespace voronoi::jobs
