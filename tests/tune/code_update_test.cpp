#include "tune/code_update.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "support/encoded_source.h"
#include "tune/distillation.h"

namespace voronoi::tune {
namespace {

constexpr std::int64_t kContext = 16;

/// A model of two blocks in 2 bits that learns from the same one in 8.
class CodeUpdateTest : public ::testing::Test {
 protected:
  static test::EncodedSource source(int bits) {
    return test::EncodedSource(
        [bits](std::int64_t n_out, std::int64_t n_in, std::span<const float> weight) {
          return test::uniform_of_weight(bits, 12, false, n_out, n_in, weight);
        },
        true);
  }
  CodeUpdateTest() {
    windows_.context = kContext;
    windows_.count = 4;
    for (std::int64_t i = 0; i < windows_.count * kContext; ++i)
      windows_.ids.push_back(static_cast<std::int32_t>((i * i * 7 + i) % 50));
    model::Transformer teacher(fine_, context_, core::DType::f32);
    distillation_.teach(teacher, [](std::int64_t, std::int64_t) {});
    distillation_.move_codes(codes_);
    codes_.set_rate(0.05);
  }
  format::Encoding read(const std::string& linear) const {
    const auto packed = coarse_.packed({linear + ".weight", {}});
    return *packed;
  }
  std::vector<float> step(std::int64_t number) {
    std::vector<float> gradient;
    last_loss_ = distillation_.differentiate(number, distillation_.initial(), gradient);
    codes_.recode(distillation_.initial(),
                  [this](std::span<const float> all, std::size_t b) { return distillation_.part(all, b); });
    return gradient;
  }

  backend::Context context_{backend::Device::cpu, 2};
  comm::Communicator world_ = comm::Communicator::alone();
  test::EncodedSource fine_ = source(8), coarse_ = source(2);
  model::Transformer student_{coarse_, context_, core::DType::f32};
  model::Windows windows_;
  Sequences sequences_{2, {0, 1}, {2, 3}};
  Distillation distillation_{context_, world_,   student_,   [this](const std::string& linear) { return read(linear); },
                             {},       windows_, sequences_, 0};
  CodeUpdate codes_{context_, world_, sequences_, distillation_.blocks()};
  double last_loss_ = 0;
};

TEST_F(CodeUpdateTest, CodesAloneLowerTheLoss) {
  step(0);
  const double first = last_loss_;
  const std::vector<std::byte> before = codes_.codes();
  for (std::int64_t i = 1; i < 60; ++i) step(i);
  EXPECT_NE(codes_.codes(), before);
  EXPECT_LT(last_loss_, 0.8 * first);
}

TEST_F(CodeUpdateTest, ABlockTakesTheDerivativesOfItsStripe) {
  EXPECT_TRUE(codes_.takes(0, 0));
  EXPECT_FALSE(codes_.takes(0, 1));
  EXPECT_TRUE(codes_.takes(1, 1));
  EXPECT_TRUE(codes_.owns(0));
  EXPECT_TRUE(codes_.owns(1));
}

TEST_F(CodeUpdateTest, GoesOnFromWhatIsKeptToTheSameCodes) {
  for (std::int64_t i = 0; i < 8; ++i) step(i);
  codes_.settle();
  const std::vector<std::byte> kept_codes = codes_.codes();
  std::vector<CodeUpdate::Settled> kept;
  for (std::int64_t layer = 0; layer < 2; ++layer) kept.push_back(codes_.settled(layer));
  EXPECT_EQ(kept[0].size(), 7U);
  for (std::int64_t i = 8; i < 16; ++i) step(i);
  const std::vector<std::byte> codes = codes_.codes();
  ASSERT_NE(codes, kept_codes);

  codes_.drop();
  codes_.set_codes(kept_codes);
  for (std::int64_t layer = 0; layer < 2; ++layer) codes_.set_settled(layer, kept[static_cast<std::size_t>(layer)]);
  for (std::int64_t i = 8; i < 16; ++i) step(i);
  EXPECT_EQ(codes_.codes(), codes);
  // Without the buffers it would be another way.
  codes_.drop();
  codes_.set_codes(kept_codes);
  for (std::int64_t i = 8; i < 16; ++i) step(i);
  EXPECT_NE(codes_.codes(), codes);
}

TEST_F(CodeUpdateTest, GoesBackToTheBestCodes) {
  codes_.keep_best();
  const std::vector<std::byte> best = codes_.codes();
  for (std::int64_t i = 0; i < 8; ++i) step(i);
  ASSERT_NE(codes_.codes(), best);
  codes_.go_back();
  EXPECT_EQ(codes_.codes(), best);
  EXPECT_TRUE(codes_.settled(0).empty());
}

TEST(BufferRate, FallsWithTheBitsAndTheWidth) {
  EXPECT_NEAR(buffer_rate(2, 64), 0.02, 1e-12);
  EXPECT_NEAR(buffer_rate(2, 115), 0.02, 1e-12);
  EXPECT_NEAR(buffer_rate(2, 1150), 0.002, 1e-12);
  EXPECT_NEAR(buffer_rate(3, 64), 0.005, 1e-12);
  EXPECT_NEAR(buffer_rate(0.5, 64), buffer_rate(1, 64), 1e-12);
  EXPECT_NEAR(rate_beside_codes(64), 0.5, 1e-12);
  EXPECT_NEAR(rate_beside_codes(288), 0.25, 1e-12);
  EXPECT_NEAR(rate_beside_codes(8192), 0.125, 1e-12);
}

}  // namespace
}  // namespace voronoi::tune
