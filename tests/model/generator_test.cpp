#include "model/generator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/error.h"
#include "core/json.h"
#include "model/weights.h"
#include "support/data.h"
#include "support/tiny_models.h"

namespace voronoi::model {
namespace {

class GeneratorGolden : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string folder = test::tiny_folder(GetParam());
    VORONOI_NEEDS_DATA(folder + "/golden.json");
    std::ifstream stream(test::data_path(folder + "/golden.json"));
    golden_ = core::Json::parse(stream);
    source_ = open_model(test::data_path(folder));
  }
  std::vector<std::int32_t> prompt(std::size_t sequence) const {
    return golden_.at("sequences").at(sequence).at("ids");
  }

  core::Json golden_;
  std::unique_ptr<WeightSource> source_;
  backend::Context context_{backend::Device::cpu, 2};
};

TEST_P(GeneratorGolden, GreedyIdsAreThoseOfTheRealImplementation) {
  const core::Json& greedy = golden_.at("greedy");
  Generator generator(*source_, context_, std::nullopt, 64);
  std::vector<float> logits = generator.feed(prompt(greedy.at("prompt_sequence").get<std::size_t>()));
  for (const std::int32_t expected : greedy.at("ids").get<std::vector<std::int32_t>>()) {
    const std::int32_t id = pick_token(logits, 0, 0);
    ASSERT_EQ(id, expected);
    logits = generator.feed(std::vector<std::int32_t>{id});
  }
}

TEST_P(GeneratorGolden, TheCacheGivesTheLogitsOfTheWholeSequence) {
  // 40 tokens: past every window of these models, and past 16, in parts of several sizes.
  const std::vector<std::int32_t> ids = prompt(0);
  Generator generator(*source_, context_, std::nullopt, 40);
  generator.feed(std::span(ids).first(3));
  generator.feed(std::span(ids).subspan(3, 1));
  const std::vector<float> logits = generator.feed(std::span(ids).subspan(4));
  const core::Json& expected = golden_.at("sequences").at(0).at("logits").at("39");
  ASSERT_EQ(logits.size(), expected.size());
  for (std::size_t i = 0; i < logits.size(); ++i) ASSERT_NEAR(logits[i], expected.at(i).get<double>(), 1e-4) << i;
  EXPECT_EQ(generator.n_tokens(), 40);
  EXPECT_THROW(generator.feed(std::span(ids).first(1)), core::InternalError);
}

INSTANTIATE_TEST_SUITE_P(Models, GeneratorGolden,
                         ::testing::Values("llama2", "llama3", "llama-bias-headdim", "llama-tied", "mistral",
                                           "mistral-window", "qwen2", "qwen2-yarn", "qwen2-window", "qwen3", "mixtral",
                                           "qwen2-moe", "qwen3-moe", "gemma", "gemma2", "phi3"),
                         test::tiny_test_name);
INSTANTIATE_TEST_SUITE_P(MoreModels, GeneratorGolden, ::testing::ValuesIn(test::more_models()), test::tiny_test_name);

TEST(PickToken, TakesTheFirstOfTheLargest) {
  EXPECT_EQ(pick_token(std::vector<float>{1, 3, 3, 2}, 0, 0.9), 1);
  EXPECT_THROW(pick_token(std::vector<float>{1, NAN}, 0, 0), core::NumericError);
}

TEST(PickToken, DrawsByTemperature) {
  // Shares 1/4, 1/2, 1/4.
  const std::vector<float> logits{0, std::log(2.0F), 0};
  EXPECT_EQ(pick_token(logits, 1, 0.2), 0);
  EXPECT_EQ(pick_token(logits, 1, 0.3), 1);
  EXPECT_EQ(pick_token(logits, 1, 0.74), 1);
  EXPECT_EQ(pick_token(logits, 1, 0.76), 2);
  // Half the temperature: 1/6, 4/6, 1/6.
  EXPECT_EQ(pick_token(logits, 0.5, 0.16), 0);
  EXPECT_EQ(pick_token(logits, 0.5, 0.18), 1);
  EXPECT_EQ(pick_token(logits, 0.5, 0.84), 2);
}

}  // namespace
}  // namespace voronoi::model
