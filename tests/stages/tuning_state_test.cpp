#include "stages/tuning_state.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "store/run_directory.h"
#include "support/temporary.h"

namespace voronoi::stages {
namespace {

class TuningState : public ::testing::Test {
 protected:
  TuningState() : paths_{folder_.path() / "run"} {
    store::create_run_directory(paths_);
    start_ = store::Start::begin(paths_);
    state_.step = 12;
    state_.values = {1.5F, -2, 3};
    state_.adam = {{1, 2, 3}, {4, 5, 6}, 11};
    state_.best = {1.25F, -2, 3};
    state_.best_loss = 0.1;
    state_.best_step = 10;
    state_.first_loss = 0.7;
    state_.looked_at = 10;
    state_.without_gain = 1;
    state_.loss_sum = 1.0 / 3;
    state_.n_summed = 2;
    state_.fallbacks = 1;
  }
  tune::DescentState read(std::size_t n = 3, const std::string& settings = "settings") const {
    return read_tuning_state(paths_, "end-to-end", settings, n);
  }

  test::TemporaryFolder folder_;
  store::RunPaths paths_;
  std::unique_ptr<store::Start> start_;
  tune::DescentState state_;
};

TEST_F(TuningState, ComesBackToTheLastBit) {
  write_tuning_state(*start_, "end-to-end", "settings", state_);
  const tune::DescentState back = read();
  EXPECT_EQ(back.step, 12);
  EXPECT_EQ(back.values, state_.values);
  EXPECT_EQ(back.adam.first, state_.adam.first);
  EXPECT_EQ(back.adam.second, state_.adam.second);
  EXPECT_EQ(back.adam.steps, 11);
  EXPECT_EQ(back.best, state_.best);
  EXPECT_EQ(back.best_loss, 0.1);
  EXPECT_EQ(back.best_step, 10);
  EXPECT_EQ(back.first_loss, 0.7);
  EXPECT_EQ(back.looked_at, 10);
  EXPECT_EQ(back.without_gain, 1);
  EXPECT_EQ(back.loss_sum, 1.0 / 3);
  EXPECT_EQ(back.n_summed, 2);
  EXPECT_EQ(back.fallbacks, 1);
}

TEST_F(TuningState, CodesComeBackWithIt) {
  const TuningCodes codes{{std::byte{1}, std::byte{2}}, {std::byte{3}, std::byte{255}}};
  write_tuning_state(*start_, "codes", "settings", state_, &codes);
  TuningCodes back{std::vector<std::byte>(2), std::vector<std::byte>(2)};
  (void)read_tuning_state(paths_, "codes", "settings", 3, &back);
  EXPECT_EQ(back.now, codes.now);
  EXPECT_EQ(back.best, codes.best);
  back.best.resize(3);
  EXPECT_THROW((void)read_tuning_state(paths_, "codes", "settings", 3, &back), core::FormatError);
  write_tuning_state(*start_, "codes", "settings", state_);
  back.best.resize(2);
  EXPECT_THROW((void)read_tuning_state(paths_, "codes", "settings", 3, &back), core::FormatError);
}

TEST_F(TuningState, WithoutMomentsTheyStayEmpty) {
  state_.adam = {};
  write_tuning_state(*start_, "end-to-end", "settings", state_);
  EXPECT_TRUE(read().adam.first.empty());
}

TEST_F(TuningState, OfOtherSettingsSizesOrNoneIsRefused) {
  write_tuning_state(*start_, "end-to-end", "settings", state_);
  EXPECT_THROW(read(3, "others"), core::FormatError);
  EXPECT_THROW(read(4), core::FormatError);
  state_.best = {};
  write_tuning_state(*start_, "end-to-end", "settings", state_);
  EXPECT_THROW(read(), core::FormatError);
}

TEST_F(TuningState, AFlippedBitIsSeen) {
  write_tuning_state(*start_, "end-to-end", "settings", state_);
  const std::filesystem::path file = paths_.tuning_state("end-to-end");
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekg(0, std::ios::end);
  const auto size = static_cast<std::streamoff>(stream.tellg());
  // The values are the last array but one; any place will do, as all bytes of arrays are checksummed.
  for (std::streamoff at = size / 2; at < size; ++at) {
    stream.seekg(at);
    const int byte = stream.get();
    if (byte != 0x40) continue;  // of 3.0F
    stream.seekp(at);
    stream.put(0x41);
    break;
  }
  stream.close();
  EXPECT_THROW(read(), core::FormatError);
}

}  // namespace
}  // namespace voronoi::stages
