#include "calib/footprint.h"

#include <gtest/gtest.h>

namespace voronoi::calib {
namespace {

model::ModelConfig small_config() {
  model::ModelConfig config;
  config.model_type = "llama";
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.n_layers = 2;
  config.n_heads = 4;
  config.n_kv_heads = 2;
  config.head_dim = 16;
  config.vocab_size = 100;
  config.window = {0, 8};
  return config;
}

TEST(CalibrationFootprint, CountsTheOperationsOfABlockByHand) {
  const BlockWork work = block_work(small_config(), 0, 3, 32);
  const double tokens = 96, linears = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 96;
  EXPECT_DOUBLE_EQ(work.gemm, 2 * tokens * linears + 4 * tokens * 64 * 32 / 2);
  EXPECT_DOUBLE_EQ(work.gram, tokens * (3 * 64 * 65 + 96 * 97));
  // A window of 8 keys leaves a quarter of the attention.
  EXPECT_DOUBLE_EQ(block_work(small_config(), 1, 3, 32).gemm, 2 * tokens * linears + 4 * tokens * 64 * 8 / 2);
}

TEST(CalibrationFootprint, CountsAllRowsOfAllExperts) {
  model::ModelConfig config = small_config();
  config.mixture.n_experts = 4;
  config.mixture.top_k = 1;
  config.mixture.expert_size = 32;
  config.mixture.layers = {true, false};
  const HessianKind plain{true}, all{true, 0, false, false, true};
  const BlockWork routed = block_work(config, 0, 3, 32, plain), seen = block_work(config, 0, 3, 32, all);
  // Gate and up of four experts for all tokens besides.
  const double tokens = 96;
  EXPECT_DOUBLE_EQ(seen.gemm - routed.gemm, 4 * 2 * tokens * 2 * 32 * 64);
  // A quarter of the tokens for three sums of gate_up and two of down an expert, or all of them for one of each.
  EXPECT_DOUBLE_EQ(seen.gram - routed.gram, tokens * (4 * (64 * 65 + 32 * 33) - (3 * 64 * 65 + 2 * 32 * 33)));
  EXPECT_DOUBLE_EQ(block_work(config, 1, 3, 32, all).gram, block_work(config, 1, 3, 32, plain).gram);
}

TEST(CalibrationFootprint, MemoryFallsWithTheRanksAndTheOwnerHoldsNoMore) {
  const model::ModelConfig config = small_config();
  const CalibrationMemory one = calibration_memory(config, 64, 128, 1), eight = calibration_memory(config, 64, 128, 8);
  EXPECT_GT(one.lasting, 4 * (64 * 128 * 64 + 100 * 64));
  EXPECT_LT(eight.lasting, one.lasting);
  EXPECT_LT(eight.every.bytes, one.every.bytes);
  EXPECT_GT(one.every.bytes, one.lasting + 8 * (3 * 64 * 64 + 96 * 96));
  EXPECT_NE(one.every.where.find("down"), std::string::npos);
  const CalibrationMemory many = calibration_memory(config, 64, 128, 64);
  EXPECT_EQ(many.owner.bytes, many.every.bytes);  // it gets one node at a time, when the chunks' sums are gone
  EXPECT_LT(one.on_device, one.every.bytes);
}

TEST(CalibrationFootprint, ADeviceHoldsTheBlocksInTheTypeOfTheirProducts) {
  const model::ModelConfig config = small_config();
  const std::int64_t block = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96;
  const auto on_device = [&](core::DType dtype) {
    return calibration_memory(config, 64, 128, 4, {}, dtype).on_device;
  };
  EXPECT_EQ(on_device(core::DType::f32) - on_device(core::DType::bf16), 2 * 2 * block);
  EXPECT_EQ(on_device(core::DType::f16), on_device(core::DType::bf16));
}

}  // namespace
}  // namespace voronoi::calib
