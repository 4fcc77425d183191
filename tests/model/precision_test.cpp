// Products on operands rounded to 16 bits, and blocks that come in two halves, on the CPU's context.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/error.h"
#include "model/block_prefetcher.h"
#include "model/transformer.h"
#include "model/weights.h"
#include "support/data.h"

namespace voronoi::model {
namespace {

class Precision : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string folder = std::string("models/tiny-random/") + GetParam();
    VORONOI_NEEDS_DATA(folder + "/config.json");
    source_ = open_model(test::data_path(folder));
    for (std::int32_t i = 0; i < 40; ++i)
      ids_.push_back(i * i % static_cast<std::int32_t>(source_->config().vocab_size));
  }

  std::vector<float> logits(core::DType dtype, bool staged = false) {
    Transformer transformer(*source_, context_, dtype);
    HiddenStates hidden = transformer.embed(ids_, 1, static_cast<std::int64_t>(ids_.size()));
    for (std::int64_t layer = 0; layer < source_->config().n_layers; ++layer)
      transformer.run_block(staged ? transformer.upload_block(transformer.stage_block(layer, context_.pool()))
                                   : transformer.load_block(layer),
                            hidden);
    std::vector<std::int64_t> rows(ids_.size());
    std::iota(rows.begin(), rows.end(), 0);
    return transformer.logits(hidden, rows);
  }

  backend::Context context_{backend::Device::cpu, 2};
  std::unique_ptr<WeightSource> source_;
  std::vector<std::int32_t> ids_;
};

TEST_P(Precision, SixteenBitsAreCloseToFp32AndF16IsCloser) {
  const std::vector<float> exact = logits(core::DType::f32);
  const auto error = [&](core::DType dtype) {
    const std::vector<float> rounded = logits(dtype);
    double squares = 0, total = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      squares += std::pow(static_cast<double>(rounded[i]) - static_cast<double>(exact[i]), 2);
      total += std::pow(static_cast<double>(exact[i]), 2);
    }
    return std::sqrt(squares / total);
  };
  const double f16 = error(core::DType::f16), bf16 = error(core::DType::bf16);
  // Half a unit of the type for each operand, through a few layers.
  EXPECT_GT(f16, 0);
  EXPECT_LT(f16, 16 * 0x1p-11);
  EXPECT_LT(bf16, 16 * 0x1p-8);
  EXPECT_LT(f16, bf16);
}

TEST_P(Precision, StagedBlocksAreTheSame) {
  for (const core::DType dtype : {core::DType::f32, core::DType::bf16}) EXPECT_EQ(logits(dtype, true), logits(dtype));
}

INSTANTIATE_TEST_SUITE_P(Models, Precision, ::testing::Values("llama-bias-headdim", "qwen3", "gemma2", "phi3"),
                         [](const ::testing::TestParamInfo<const char*>& parameter) {
                           std::string name = parameter.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(BlockPrefetcher, GivesTheBlocksOfItsList) {
  VORONOI_NEEDS_DATA("models/tiny-random/llama2/config.json");
  backend::Context context(backend::Device::cpu, 1);
  const auto source = open_model(test::data_path("models/tiny-random/llama2"));
  const Transformer transformer(*source, context);
  EXPECT_EQ(transformer.dtype(), core::DType::f32);
  BlockPrefetcher blocks(transformer, context, {1, 0});
  EXPECT_EQ(blocks.next().layer, 1);
  EXPECT_EQ(blocks.next().layer, 0);
  EXPECT_THROW(blocks.next(), core::InternalError);
}

TEST(BlockPrefetcher, TellsWhatBlocksTake) {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.n_layers = 3;
  config.n_heads = 4;
  config.n_kv_heads = 2;
  config.head_dim = 16;
  config.vocab_size = 100;
  const std::int64_t block = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96;
  // Two on the device; one on the host, and its values as they are read.
  EXPECT_EQ(prefetch_memory(config, core::DType::bf16).device, 2 * 2 * block);
  EXPECT_EQ(prefetch_memory(config, core::DType::bf16).host, (2 + 4) * block);
  EXPECT_EQ(prefetch_memory(config, core::DType::f32).device, 2 * 4 * block);
  EXPECT_EQ(prefetch_memory(config, core::DType::f32).host, 4 * block);
  config.n_layers = 1;
  EXPECT_EQ(prefetch_memory(config, core::DType::bf16).device, 2 * block);

  // 128 experts of 3 x 8192 x 5120 weights, 30 GiB in bf16, between blocks of 96 inputs: read in parts of 2 GiB as
  // fp32.
  config.n_layers = 3;
  config.hidden_size = 5120;
  config.mixture.n_experts = 128;
  config.mixture.expert_size = 8192;
  config.mixture.layers = {false, true, false};
  const std::int64_t attention = 5120 * (64 + 64 + 32 + 32), dense = attention + 3 * 5120 * 96,
                     experts = attention + 128 * 3 * 8192 * std::int64_t{5120};
  EXPECT_EQ(prefetch_memory(config, core::DType::bf16).device, 2 * (experts + dense));
  EXPECT_EQ(prefetch_memory(config, core::DType::bf16).host, 2 * dense + (std::int64_t{3} << 30));
  EXPECT_EQ(prefetch_memory(config, core::DType::f32).host, 4 * dense + (std::int64_t{2} << 30));
}

}  // namespace
}  // namespace voronoi::model
