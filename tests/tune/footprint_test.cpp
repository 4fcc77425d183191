#include "tune/footprint.h"

#include <gtest/gtest.h>

#include "core/json.h"
#include "model/block_tape.h"

namespace voronoi::tune {
namespace {

constexpr std::int64_t kGiB = std::int64_t{1} << 30, kTokens = 1024;

/// The shapes of Llama 3.1 405B.
model::ModelConfig large_config() {
  return model::parse_config(core::Json{{"model_type", "llama"},
                                        {"hidden_size", 16384},
                                        {"intermediate_size", 53248},
                                        {"num_hidden_layers", 126},
                                        {"num_attention_heads", 128},
                                        {"num_key_value_heads", 8},
                                        {"vocab_size", 128256},
                                        {"max_position_embeddings", 8192},
                                        {"rms_norm_eps", 1e-5},
                                        {"rope_theta", 5e5},
                                        {"hidden_act", "silu"},
                                        {"tie_word_embeddings", false}},
                             "config.json");
}

class FootprintTest : public ::testing::Test {
 protected:
  Residence on(std::int64_t device_bytes) const {
    return choose_residence(config_, sizes_, kTokens, sequences_, 8, device_bytes);
  }
  TuneMemory memory(const Residence& residence) const {
    return tune_memory(config_, sizes_, kTokens, sequences_, 8, residence);
  }

  model::ModelConfig config_ = large_config();
  TunedSizes sizes_{100 * kGiB, std::int64_t{400} << 20};
  Sequences sequences_ = divide(128, 1, 0.125);
};

TEST_F(FootprintTest, CodesThatDoNotFitComeFromTheHost) {
  const Residence small = on(80 * kGiB), large = on(180 * kGiB);
  EXPECT_TRUE(small.codes_on_host);
  EXPECT_FALSE(large.codes_on_host);
  EXPECT_LT(memory(small).end_to_end.device, 80 * kGiB);
  EXPECT_LT(memory(large).end_to_end.device, 180 * kGiB);
  // On the host they are whole, on the device two blocks of them.
  const PhaseMemory away = memory({0, true}).end_to_end, here = memory({0, false}).end_to_end;
  EXPECT_EQ(away.host - here.host, sizes_.code_bytes);
  EXPECT_EQ(here.device - away.device, sizes_.code_bytes - 2 * sizes_.code_bytes / config_.n_layers);
}

TEST_F(FootprintTest, WhatIsLeftOfADeviceGoesToTapes) {
  const std::int64_t one = model::tape_bytes(config_, 0, kTokens);
  const Residence some = on(80 * kGiB);
  EXPECT_GT(some.n_taped, 0);
  EXPECT_LT(some.n_taped, config_.n_layers);
  EXPECT_GT(memory(some).end_to_end.device + one, 80 * kGiB / 10 * 9);
  EXPECT_EQ(on(1000 * kGiB).n_taped, config_.n_layers);
  EXPECT_EQ(on(1 * kGiB).n_taped, 0);
}

TEST_F(FootprintTest, AHostKeepsCodesAndSpendsAFixedPartOnTapes) {
  const Residence host = on(0);
  EXPECT_FALSE(host.codes_on_host);
  EXPECT_EQ(host.n_taped, kTapeBytes / model::tape_bytes(config_, 0, kTokens));
}

TEST_F(FootprintTest, TrainedWeightsAreDividedOverTheRanksTheirDerivativesAreNot) {
  const std::int64_t block = 4 * (2 * 16384 * 16384 + 2 * 16384 * 1024 + 3 * 16384 * 53248L);
  const TuneMemory eight = memory({0, false});
  // One sequence a step: a sum; weights and two moments of 16 of the 126 blocks. What a block's file takes is less than
  // the sums that are gone by then.
  EXPECT_EQ(sequences_.batch, 1);
  EXPECT_EQ(eight.weights.host - eight.end_to_end.host, (126 + 3 * 16) * block);
  EXPECT_EQ(eight.weights.device, eight.end_to_end.device);
  const TuneMemory alone = tune_memory(config_, sizes_, kTokens, sequences_, 1, {0, false});
  EXPECT_EQ(alone.weights.host - alone.end_to_end.host, (126 + 3 * 126) * block);
  Sequences many = sequences_;
  many.batch = 16;
  const TuneMemory two_each = tune_memory(config_, sizes_, kTokens, many, 8, {0, false});
  EXPECT_EQ(two_each.weights.host - two_each.end_to_end.host, (3 * 126 + 3 * 16) * block);
}

TEST_F(FootprintTest, Bf16HalvesHeadAndTeacherAndCopiesABlock) {
  const std::int64_t block = 4 * (2 * 16384 * 16384 + 2 * 16384 * 1024 + 3 * 16384 * 53248L),
                     head = 2 * 4 * 128256L * 16384;
  const TuneMemory wide = memory({0, false});
  sizes_.dtype = core::DType::bf16;
  const TuneMemory narrow = memory({0, false});
  EXPECT_EQ(narrow.end_to_end.device - wide.end_to_end.device, block / 2 - head / 2);
  EXPECT_EQ(wide.teaching - narrow.teaching, block + head / 2);
  EXPECT_EQ(wide.block.device - narrow.block.device, head / 2);
  EXPECT_EQ(wide.end_to_end.host, narrow.end_to_end.host);
}

TEST_F(FootprintTest, ATapeSavesRunningTheBlockAgain) {
  const TuneWork none = end_to_end_work(config_, kTokens, sequences_, {0, false}),
                 all = end_to_end_work(config_, kTokens, sequences_, {config_.n_layers, false});
  const double once = none.teacher / static_cast<double>(sequences_.training.size() + sequences_.held_out.size());
  EXPECT_DOUBLE_EQ(none.step - all.step, once);
  EXPECT_EQ(none.held_out, all.held_out);
}

}  // namespace
}  // namespace voronoi::tune
