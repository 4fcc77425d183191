#include "calib/footprint.h"

#include <gtest/gtest.h>

#include "calib/planned_counts.h"
#include "calib/row_groups.h"

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
  // A query looks at 1, 2, ... 32 keys.
  EXPECT_DOUBLE_EQ(work.gemm, 2 * tokens * linears + 4 * 3 * (32 * 33 / 2) * 64);
  EXPECT_DOUBLE_EQ(work.gram, tokens * (3 * 64 * 65 + 96 * 97));
  EXPECT_DOUBLE_EQ(work.gram_flops, work.gram);
  // With a window of 8 keys at 1, 2, ... 8 and then 8.
  EXPECT_DOUBLE_EQ(block_work(small_config(), 1, 3, 32).gemm, 2 * tokens * linears + 4 * 3 * (36 + 24 * 8) * 64);
  // A second stream: everything twice, and a whole matrix of fp64 products a site, each as long as two.
  const BlockWork crossed = block_work(small_config(), 0, 3, 32, {false, 0, true, true});
  EXPECT_DOUBLE_EQ(crossed.gemm, 2 * work.gemm);
  EXPECT_DOUBLE_EQ(crossed.gram_flops - work.gram, tokens * 2 * (3 * 64 * 64 + 96 * 96));
  EXPECT_DOUBLE_EQ(crossed.gram - work.gram, 2 * (crossed.gram_flops - work.gram));
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

TEST(CalibrationFootprint, GroupsOfRowsHaveASumEach) {
  const model::ModelConfig config = small_config();
  HessianKind one{true}, four{true};
  four.row_groups = 4;
  // Of units of 16 rows: q has 4, k and v two groups each; gate and up (96 rows) 4.
  const std::vector<model::SiteSpec> sites = model::block_sites(config, 0);
  const std::int64_t triangle = 4 * (64 * 65 / 2);
  EXPECT_EQ(hessian_bytes(sites[0], one), triangle * (1 + 3));
  EXPECT_EQ(hessian_bytes(sites[0], four), triangle * (1 + 4 + 2 + 2));
  EXPECT_EQ(hessian_bytes(sites[2], four), triangle * (1 + 4 + 4));
  const double tokens = 96;
  EXPECT_DOUBLE_EQ(block_work(config, 0, 3, 32, four).gram - block_work(config, 0, 3, 32, one).gram,
                   tokens * ((5 + 3 + 6) * 64 * 65 + 3 * 96 * 97));
  EXPECT_GT(calibration_memory(config, 64, 128, 2, four).every.bytes,
            calibration_memory(config, 64, 128, 2, one).every.bytes);
  EXPECT_EQ(row_group_begin(100, 3, 0), 0);
  EXPECT_EQ(row_group_begin(100, 3, 1), 32);
  EXPECT_EQ(row_group_begin(100, 3, 2), 64);
  EXPECT_EQ(row_group_begin(100, 3, 3), 100);
  EXPECT_EQ(n_row_groups(20, 16), 2);
  EXPECT_EQ(n_row_groups(3, 16), 1);
}

TEST(CalibrationFootprint, CountsTheWorkOfAllRanksByHand) {
  const model::ModelConfig config = small_config();
  Calibrated of{config, block_elements(config), 3, 32, 2, {}, 2.0};
  const double linears = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 96, norms = 2 * 64;
  EXPECT_EQ(of.blocks.at(1).linears, linears);
  EXPECT_EQ(of.blocks.at(1).others, norms);
  using core::Counted;
  core::WorkCounts counts = collecting_counts(of, 0);
  EXPECT_EQ(counts[Counted::forward_tokens], 96);
  EXPECT_EQ(counts[Counted::model_bytes], 2 * 2 * (linears + norms));
  // Rank 0 has chunk 0, rank 1 chunks 1 and 2, which are no neighbours in the tree: three nodes with values go to the
  // other rank by half, headers of both trees of each site whole; half of each mean goes to its owner.
  const double triangles = 3 * 64 * 65 / 2 + 96 * 97 / 2;
  EXPECT_EQ(counts[Counted::sent_bytes],
            4 * 2 * 3 * 40 + (3 * 8 * (triangles + 4 * 2) + 4 * triangles + 4 * 2 * 8) / 2);
  EXPECT_EQ(counts[Counted::backward_tokens], 0);
  counts = weighing_counts(of);
  EXPECT_EQ(counts[Counted::forward_tokens], 2 * 96);
  EXPECT_EQ(counts[Counted::backward_tokens], 2 * 96);
  EXPECT_EQ(embedding_counts(of)[Counted::model_bytes], 2 * 2 * 100 * 64);
  of.n_ranks = 8;  // more than there are chunks
  EXPECT_EQ(embedding_counts(of)[Counted::model_bytes], 3 * 2 * 100 * 64);
}

TEST(CalibrationFootprint, MemoryFallsWithTheRanksAndTheOwnerHoldsNoMore) {
  const model::ModelConfig config = small_config();
  const CalibrationMemory one = calibration_memory(config, 64, 128, 1), eight = calibration_memory(config, 64, 128, 8);
  EXPECT_GT(one.lasting, 4 * 64 * 128 * 64);
  EXPECT_LT(eight.lasting, one.lasting);
  EXPECT_LT(eight.every.bytes, one.every.bytes);
  EXPECT_GT(one.every.bytes, one.lasting + 8 * (3 * 64 * 64 + 96 * 96));
  EXPECT_NE(one.every.where.find("down"), std::string::npos);
  const CalibrationMemory many = calibration_memory(config, 64, 128, 64);
  EXPECT_EQ(many.owner.bytes, many.every.bytes);  // it gets one node at a time, when the chunks' sums are gone
  EXPECT_LT(one.on_device.bytes, one.every.bytes);
}

TEST(CalibrationFootprint, ADeviceHoldsTheBlocksInTheTypeOfTheirProducts) {
  const model::ModelConfig config = small_config();
  const std::int64_t block = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96;
  const auto on_device = [&](core::DType dtype) {
    return calibration_memory(config, 64, 128, 4, {}, dtype).on_device.bytes;
  };
  EXPECT_EQ(on_device(core::DType::f32) - on_device(core::DType::bf16), 2 * 2 * block);
  EXPECT_EQ(on_device(core::DType::f16), on_device(core::DType::bf16));
}

}  // namespace
}  // namespace voronoi::calib
