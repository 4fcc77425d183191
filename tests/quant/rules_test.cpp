// Rules: their text, which one counts, and what they make of a run's parameters.
#include "quant/rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quant/vq/vector_parameters.h"

namespace voronoi::quant {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Rule rule_of(const std::string& text) {
  Rule rule;
  EXPECT_EQ(parse_rule(text, rule), "") << text;
  return rule;
}
std::string problem_of(const std::string& text) {
  Rule rule;
  return parse_rule(text, rule);
}

const std::string kDown3 = "model.layers.3.mlp.down_proj", kUp3 = "model.layers.3.mlp.up_proj";

TEST(Rules, AreReadAndWrittenAsText) {
  const Rule rule = rule_of("model.layers.[0-1].*  bits=3.5 kmeans-iterations=7");
  EXPECT_EQ(rule.pattern, "model.layers.[0-1].*");
  EXPECT_EQ(rule.bits, 3.5);
  EXPECT_THAT(rule.values, ElementsAre(testing::Pair("kmeans-iterations", "7")));
  for (const char* text : {"* bits=3.5 kmeans-iterations=7", "*.v_proj quantize=false", "a.b quantize=true"})
    EXPECT_EQ(rule_text(rule_of(text)), text);
}

TEST(Rules, RefuseWhatTheyDoNotUnderstand) {
  EXPECT_THAT(problem_of(""), HasSubstr("PATTERN NAME=VALUE"));
  EXPECT_THAT(problem_of("bits=3"), HasSubstr("pattern"));
  EXPECT_THAT(problem_of("*.v_proj"), HasSubstr("says nothing"));
  EXPECT_THAT(problem_of("*.v_proj bits"), HasSubstr("NAME=VALUE, not 'bits'"));
  EXPECT_THAT(problem_of("*.v_proj centroid=8"), AllOf(HasSubstr("centroid: is unknown"), HasSubstr("centroids")));
  EXPECT_THAT(problem_of("*.v_proj seed=8"), HasSubstr("seed: is unknown"));
  EXPECT_THAT(problem_of("*.v_proj method=rtn"), HasSubstr("method: is unknown"));
  EXPECT_THAT(problem_of("*.v_proj bits=9"), AllOf(HasSubstr("*.v_proj: bits"), HasSubstr("from 0.5 to 8")));
  EXPECT_THAT(problem_of("*.v_proj centroids=100"), HasSubstr("power of two"));
  EXPECT_THAT(problem_of("*.v_proj quantize=no"), HasSubstr("true or false"));
  EXPECT_THAT(problem_of("*.v_proj bits=2 bits=3"), HasSubstr("more than once"));
  EXPECT_THAT(problem_of("*.v_proj quantize=false bits=3"), HasSubstr("nothing else"));
}

TEST(Rules, MatchWholeNamesAsAShellDoes) {
  EXPECT_TRUE(matches(rule_of("model.layers.*.mlp.down_proj bits=2"), kDown3));
  EXPECT_TRUE(matches(rule_of("*.down_proj bits=2"), kDown3));
  EXPECT_TRUE(matches(rule_of("*.[3-5].* bits=2"), kDown3));
  EXPECT_TRUE(matches(rule_of(kDown3 + " bits=2"), kDown3));
  EXPECT_FALSE(matches(rule_of("down_proj bits=2"), kDown3));
  EXPECT_FALSE(matches(rule_of("*.down bits=2"), kDown3));
  EXPECT_FALSE(matches(rule_of("*.[4-5].* bits=2"), kDown3));
}

TEST(Rules, TheLastThatMatchesCountsAlone) {
  QuantParameters base;
  base.get<VectorParameters>().kmeans_iterations = 50;
  const RunParameters run(base, {rule_of("*.mlp.* centroids=64 kmeans-iterations=5"),
                                 rule_of("*.down_proj centroids=16"), rule_of("*.layers.0.* quantize=false")});
  const auto vectors = [&](const std::string& linear) { return run.of(linear)->get<VectorParameters>(); };
  EXPECT_EQ(vectors(kUp3).centroids, 64);
  EXPECT_EQ(vectors(kUp3).kmeans_iterations, 5);
  EXPECT_EQ(vectors(kDown3).centroids, 16);
  EXPECT_EQ(vectors(kDown3).kmeans_iterations, 50) << "the first rule has no part in it";
  EXPECT_EQ(run.of("model.layers.0.mlp.down_proj"), nullptr);
  EXPECT_EQ(run.of("model.layers.3.self_attn.q_proj"), &run.of_run());
}

TEST(Rules, ASetChangesWhatTheyDoNotSay) {
  RunParameters run(QuantParameters(), {rule_of("*.down_proj centroids=16")});
  EXPECT_EQ(run.set("centroids=64"), "");
  EXPECT_EQ(run.set("kmeans-iterations=9"), "");
  EXPECT_THAT(run.set("seed=1"), HasSubstr("cannot be set"));
  EXPECT_EQ(run.of(kUp3)->get<VectorParameters>().centroids, 64);
  EXPECT_EQ(run.of(kDown3)->get<VectorParameters>().centroids, 16);
  EXPECT_EQ(run.of(kDown3)->get<VectorParameters>().kmeans_iterations, 9);
}

TEST(Rules, AreCheckedWithTheRunsParametersByName) {
  Rule large = rule_of("*.down_proj residual-centroids=512"), both = rule_of("*.up_proj bits=3 centroids=16");
  large.where = "mixed.cfg: [[rules]] 2 (line 9)";
  EXPECT_THAT(RunParameters(QuantParameters(), {large, both}).check(),
              ElementsAre(AllOf(HasSubstr("mixed.cfg: [[rules]] 2 (line 9)"), HasSubstr("*.down_proj"),
                                HasSubstr("--residual-centroids 512 is above --centroids 256")),
                          AllOf(HasSubstr("--rule"), HasSubstr("*.up_proj"), HasSubstr("--bits 3 chooses"))));
  QuantParameters gptq;
  gptq.method = "gptq";
  EXPECT_THAT(RunParameters(gptq, {rule_of("* bits=2.5")}).check(), Contains(HasSubstr("whole bits")));
  // What is wrong with the run itself is told once.
  QuantParameters wrong;
  wrong.get<VectorParameters>().residual_centroids = 512;
  EXPECT_EQ(RunParameters(wrong, {rule_of("* kmeans-iterations=5")}).check().size(), 1U);
}

TEST(Rules, StandInTheIdentityOnlyWhereThereAreSome) {
  EXPECT_EQ(RunParameters(QuantParameters(), {}).json(), parameters_json(QuantParameters()));
  const core::Json json = RunParameters(QuantParameters(), {rule_of("* centroids=16")}).json();
  EXPECT_EQ(json.at("rules"), core::Json::array({"* centroids=16"}));
}

}  // namespace
}  // namespace voronoi::quant
