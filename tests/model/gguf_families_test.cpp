// GGUF files of every architecture that is read, made of models whose outputs the real implementations gave: the logits
// are the same as those of the Hugging Face directory.
#include <gmock/gmock.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/error.h"
#include "core/json.h"
#include "model/gguf_of_model.h"
#include "model/gguf_weights.h"
#include "model/transformer.h"
#include "model/weights.h"
#include "support/data.h"
#include "support/tiny_models.h"

namespace voronoi::model {
namespace {

using testing::AllOf;
using testing::HasSubstr;

core::Json json_at(const std::string& relative) {
  std::ifstream stream(test::data_path(relative));
  return core::Json::parse(stream);
}

/// Of a wrapper that of its language model.
core::Json text_config_of(const std::string& folder) {
  core::Json config = json_at(folder + "/config.json");
  if (!config.contains("text_config")) return config;
  core::Json text = config.at("text_config");
  if (!text.contains("model_type")) text["model_type"] = "mistral";
  return text;
}

class GgufFamilies : public testing::TestWithParam<const char*> {
 protected:
  /// In the file's metadata and tensors a parameter may ask for the older form of latent attention or another name.
  void SetUp() override {
    model_ = GetParam();
    if (model_.ends_with("-joined")) {
      split_ = false;
      model_.resize(model_.size() - std::string("-joined").size());
    }
    if (model_.ends_with("-mistral3")) {
      arch_ = "mistral3";
      model_.resize(model_.size() - std::string("-mistral3").size());
    }
    data_ = test::tiny_folder(model_);
    VORONOI_NEEDS_DATA(data_ + "/golden.json");
    original_ = open_model(test::data_path(data_));
    path_ = folder_.write("m.gguf", test::GgufOfModel(*original_, text_config_of(data_), split_, arch_).bytes());
  }

  std::string model_, data_, arch_, path_;
  bool split_ = true;
  test::TemporaryFolder folder_;
  std::unique_ptr<WeightSource> original_;
};

TEST_P(GgufFamilies, LogitsAreThoseOfTheRealImplementation) {
  const core::Json golden = json_at(data_ + "/golden.json");
  testing::internal::CaptureStderr();
  const auto source = open_model(path_);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");  // no key and no tensor is passed over
  backend::Context context(backend::Device::cpu, 2);
  Transformer transformer(*source, context);
  std::vector<BlockWeights> blocks;
  for (std::int64_t layer = 0; layer < transformer.config().n_layers; ++layer)
    blocks.push_back(transformer.load_block(layer));
  for (const core::Json& sequence : golden.at("sequences")) {
    const std::vector<std::int32_t> ids = sequence.at("ids");
    HiddenStates hidden = transformer.embed(ids, 1, static_cast<std::int64_t>(ids.size()));
    for (const BlockWeights& block : blocks) transformer.run_block(block, hidden);
    for (const auto& [position, expected] : sequence.at("logits").items()) {
      const std::vector<float> logits = transformer.logits(hidden, std::vector<std::int64_t>{std::stoll(position)});
      ASSERT_EQ(logits.size(), expected.size());
      for (std::size_t i = 0; i < logits.size(); ++i)
        ASSERT_NEAR(logits[i], expected.at(i).get<double>(), 1e-4) << position << ", " << i;
    }
  }
}

// An export takes its config.json from the metadata.
TEST_P(GgufFamilies, TheConfigThatAnExportGetsMakesTheSameModel) {
  const ModelConfig wanted = open_model(path_)->config();
  const core::Json json = gguf_config_json(path_);
  const ModelConfig found = parse_config(json, "config.json");
  EXPECT_EQ(json.at("architectures").at(0), class_name(found.model_type));
  EXPECT_EQ(found.window, wanted.window);
  EXPECT_EQ(found.activation, wanted.activation);
  EXPECT_EQ(found.n_turned, wanted.n_turned);
  EXPECT_EQ(found.attention_scale, wanted.attention_scale);
  EXPECT_EQ(found.mixture.layers, wanted.mixture.layers);
  const std::vector<TensorSpec> ours = expected_tensors(found), theirs = expected_tensors(wanted);
  ASSERT_EQ(ours.size(), theirs.size());
  for (std::size_t i = 0; i < ours.size(); ++i) EXPECT_EQ(ours[i].name, theirs[i].name);
}

INSTANTIATE_TEST_SUITE_P(Models, GgufFamilies,
                         testing::Values("llama2", "llama-bias-headdim", "llama-tied", "mistral", "mistral-mistral3",
                                         "mixtral", "qwen2", "qwen2-yarn", "qwen2-moe", "qwen3", "qwen3-moe",
                                         "qwen3-vl", "gemma", "gemma2", "gemma3", "gemma3-vision", "phi3",
                                         "phi3-longrope", "phi4-mini", "granite", "olmo2", "glm4", "glm4-moe",
                                         "cohere2", "gpt-oss", "gpt-oss-mxfp4", "deepseek-v3", "deepseek-v3-joined",
                                         "deepseek-v3-noqlora", "deepseek-v3-fp8"),
                         test::tiny_test_name);

}  // namespace
}  // namespace voronoi::model
