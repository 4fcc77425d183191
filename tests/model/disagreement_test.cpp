// Where config.json, side files, names and tensors disagree: what transformers does is done, and said.
#include <gmock/gmock.h>

#include <filesystem>

#include "core/error.h"
#include "model/model_files.h"
#include "model/weights.h"
#include "support/small_config.h"

namespace voronoi::model {
namespace {

using core::DType;
using core::Json;
using test::FileTensor;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kPointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n";

class Disagreement : public ::testing::Test {
 protected:
  Disagreement() {
    config_.erase("attention_bias");
    config_["vocab_size"] = 5;
    for (const TensorSpec& spec : expected_tensors(parse_config(config_, "c")))
      tensors_.push_back(tensor(spec.name, spec.shape, static_cast<float>(tensors_.size())));
  }
  static FileTensor tensor(const std::string& name, const core::Shape& shape, float value, DType dtype = DType::f32) {
    const auto n = static_cast<std::size_t>(core::element_count(shape).value());
    return {name, std::string(core::dtype_name(dtype)), shape, test::encode(dtype, std::vector<float>(n, value))};
  }
  std::unique_ptr<WeightSource> open() {
    folder_.write("config.json", config_.dump());
    folder_.write("model.safetensors", test::safetensors_bytes(tensors_));
    testing::internal::CaptureStderr();
    std::unique_ptr<WeightSource> source;
    try {
      source = open_model(folder_.path());
    } catch (const core::Error& error) {
      refusal_ = error.what();
    }
    said_ = testing::internal::GetCapturedStderr();
    return source;
  }
  std::string refusal() {
    refusal_ = "accepted";
    open();
    return refusal_;
  }
  static float first_of(const WeightSource& source, const std::string& name, const core::Shape& shape) {
    std::vector<float> values(static_cast<std::size_t>(core::element_count(shape).value()));
    source.read({name, shape}, values);
    return values.front();
  }
  test::TemporaryFolder folder_;
  Json config_ = test::small_config();
  std::vector<FileTensor> tensors_;
  std::string said_, refusal_;
};

TEST_F(Disagreement, AStoredHeadThatDiffersIsNotTied) {
  const core::Shape shape{5, 24};
  tensors_.push_back(tensor("lm_head.weight", shape, 0));  // the embedding is the first tensor: zeros
  EXPECT_TRUE(open()->config().tied_embeddings);
  EXPECT_EQ(said_, "") << "a copy of the embedding is no news";
  tensors_.back() = tensor("lm_head.weight", shape, 0, DType::bf16);
  EXPECT_TRUE(open()->config().tied_embeddings) << "the same values in another type";
  tensors_.back() = tensor("lm_head.weight", shape, 7);
  const auto source = open();
  EXPECT_FALSE(source->config().tied_embeddings);
  EXPECT_EQ(first_of(*source, "lm_head.weight", shape), 7);
  EXPECT_THAT(said_, AllOf(HasSubstr("config.json"), HasSubstr("another head")));
}

TEST_F(Disagreement, AHeadAloneIsTheEmbeddingToo) {
  tensors_.front() = tensor("lm_head.weight", {5, 24}, 7);
  EXPECT_EQ(first_of(*open(), "model.embed_tokens.weight", {5, 24}), 7);
  config_["tie_word_embeddings"] = false;
  EXPECT_THAT(refusal(), HasSubstr("model.embed_tokens.weight"));
}

TEST_F(Disagreement, LeftOverQuantizationIsNoQuantization) {
  config_["quantization_config"] = {{"quant_method", "bitsandbytes"}, {"load_in_4bit", true}};
  ASSERT_NE(open(), nullptr) << refusal_;
  EXPECT_THAT(said_, HasSubstr("left over"));
  for (const Json& nothing : {Json(nullptr), Json::object()}) {
    config_["quantization_config"] = nothing;
    ASSERT_NE(open(), nullptr) << refusal_;
    EXPECT_EQ(said_, "");
  }
  config_["quantization_config"] = {{"quant_method", "fp8"}};
  const FileTensor plain = tensors_[3];
  tensors_[3].dtype = "F8_E4M3";
  tensors_[3].bytes.resize(tensors_[3].bytes.size() / 4);
  EXPECT_THAT(refusal(), AllOf(HasSubstr("config.json"), HasSubstr("quantized already"), HasSubstr("F8_E4M3")));
  tensors_[3] = plain;
  tensors_[3].name += "_packed";
  EXPECT_THAT(refusal(), AllOf(HasSubstr("quantized already"), HasSubstr(plain.name)));
  config_.erase("quantization_config");
  EXPECT_THAT(refusal(), Not(HasSubstr("quantized already")));
}

TEST_F(Disagreement, TensorsTellTheTypeThatConfigDoesNot) {
  tensors_.front() = tensor("model.embed_tokens.weight", {5, 24}, 1, DType::bf16);
  EXPECT_EQ(open()->config().stored_dtype, DType::f16) << "config.json says so";
  config_.erase("torch_dtype");
  EXPECT_EQ(open()->config().stored_dtype, DType::bf16);
  config_["dtype"] = nullptr;
  EXPECT_EQ(open()->config().stored_dtype, DType::bf16);
}

TEST_F(Disagreement, GenerationSettingsNameMoreEnds) {
  config_["eos_token_id"] = 2;
  folder_.write("generation_config.json", R"({"eos_token_id": [2, 4, 99]})");
  EXPECT_EQ(open()->config().end_ids, (std::vector<std::int64_t>{2, 4}));
  config_.erase("eos_token_id");
  folder_.write("generation_config.json", R"({"eos_token_id": 4})");
  EXPECT_EQ(open()->config().end_ids, (std::vector<std::int64_t>{4}));
  folder_.write("generation_config.json", R"({"eos_token_id": "4"})");
  EXPECT_THAT(refusal(), HasSubstr("generation_config.json"));
}

TEST_F(Disagreement, PrefixesOfTrainersAndWrappersAreRecognised) {
  config_["tie_word_embeddings"] = false;
  tensors_.push_back(tensor("lm_head.weight", {5, 24}, 77));
  const std::vector<FileTensor> standard = tensors_;
  const auto renamed = [&](const std::string& base, const std::string& head, const std::string& inner = "") {
    tensors_ = standard;
    for (FileTensor& one : tensors_) {
      const bool is_head = one.name == "lm_head.weight";
      one.name = is_head ? head + one.name : base + one.name.substr(std::string("model.").size());
      if (const std::size_t at = one.name.find("self_attn."); !is_head && at != std::string::npos)
        one.name.insert(at, inner);
    }
  };
  const auto same = [&] {
    const auto source = open();
    if (source == nullptr) return refusal_;
    const float norm = first_of(*source, "model.norm.weight", {24});
    const float head = first_of(*source, "lm_head.weight", {5, 24});
    return head == 77 && norm == static_cast<float>(standard.size() - 2) ? std::string() : "other tensors";
  };
  EXPECT_EQ(same(), "");
  EXPECT_EQ(said_, "");
  renamed("", "");  // saved from the base class
  EXPECT_EQ(same(), "");
  EXPECT_THAT(said_, HasSubstr("layers.0.input_layernorm.weight"));
  renamed("language_model.model.", "language_model.");  // inside a model for pictures, in both spellings
  EXPECT_EQ(same(), "");
  renamed("model.language_model.", "");
  EXPECT_EQ(same(), "");
  renamed("_orig_mod.model.", "_orig_mod.");
  EXPECT_EQ(same(), "");
  renamed("module.model.", "module.");
  EXPECT_EQ(same(), "");
  renamed("module._orig_mod.model.", "module._orig_mod.", "_fsdp_wrapped_module._checkpoint_wrapped_module.");
  EXPECT_EQ(same(), "");
  renamed("transformer.h.", "");
  tensors_[1].name = "transformer.h.0.ln_1.weight";
  EXPECT_THAT(same(), AllOf(HasSubstr("missing tensors"), HasSubstr("there are"), HasSubstr("transformer.h.")));
  renamed("", "");
  tensors_.push_back(tensor("model.norm.weight", {24}, 1));
  EXPECT_THAT(same(), AllOf(HasSubstr("\"norm.weight\""), HasSubstr("both model.norm.weight")));
}

TEST_F(Disagreement, WhatStandsInForAFileIsNamed) {
  open();
  folder_.write("model.safetensors", kPointer);
  const auto refusal_of = [&](const std::string& path) -> std::string {
    try {
      open_model(path);
    } catch (const core::FormatError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(refusal_of(folder_.path()), AllOf(HasSubstr("model.safetensors"), HasSubstr("git lfs pull")));
  folder_.write("config.json", kPointer);
  EXPECT_THAT(refusal_of(folder_.path()), AllOf(HasSubstr("config.json"), HasSubstr("git lfs pull")));
  folder_.write("config.json", "<!DOCTYPE html>\n<html></html>");
  EXPECT_THAT(refusal_of(folder_.path()), AllOf(HasSubstr("config.json"), HasSubstr("web page")));
  EXPECT_THAT(refusal_of(folder_.write("m.gguf", kPointer)), HasSubstr("git lfs pull"));
  std::filesystem::remove(folder_.path() + "/config.json");
  folder_.write("params.json", "{}");
  EXPECT_THAT(refusal_of(folder_.path()), HasSubstr("params.json"));
  folder_.write("adapter_config.json", "{}");
  EXPECT_THAT(refusal_of(folder_.path()), HasSubstr("adapter (LoRA)"));
}

}  // namespace
}  // namespace voronoi::model
