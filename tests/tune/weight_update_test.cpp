#include "tune/weight_update.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "support/encoded_source.h"
#include "tune/distillation.h"

namespace voronoi::tune {
namespace {

constexpr std::int64_t kTrainedContext = 16, kGroup = 12;
constexpr double kReverse = 0.4;

test::EncodedSource source_of(int bits, bool packed) {
  return {[bits](std::int64_t n_out, std::int64_t n_in, std::span<const float> weight) {
            return test::uniform_of_weight(bits, kGroup, false, n_out, n_in, weight);
          },
          packed};
}

/// A model with one number of it moved.
class Nudged final : public model::WeightSource {
 public:
  Nudged(const model::WeightSource& source, std::string tensor, std::size_t place, float by)
      : source_(source), tensor_(std::move(tensor)), place_(place), by_(by) {}
  const model::ModelConfig& config() const override { return source_.config(); }
  void read(const model::TensorSpec& spec, std::span<float> out) const override {
    source_.read(spec, out);
    if (spec.name == tensor_) out[place_] += by_;
  }
  std::string fingerprint() const override { return {}; }
  const std::string& path() const override { return source_.path(); }

 private:
  const model::WeightSource& source_;
  std::string tensor_;
  std::size_t place_;
  float by_;
};

/// A model of two blocks in 2 bits that learns from the same one in 8.
class WeightUpdateTest : public ::testing::Test {
 protected:
  WeightUpdateTest() {
    windows_.context = kTrainedContext;
    windows_.count = 4;
    for (std::int64_t i = 0; i < windows_.count * kTrainedContext; ++i)
      windows_.ids.push_back(static_cast<std::int32_t>((i * i * 7 + i) % 50));
    model::Transformer teacher(fine_, context_, core::DType::f32);
    distillation_.teach(teacher, [](std::int64_t, std::int64_t) {});
    distillation_.move_codes(weights_);
    distillation_.mix_in_reverse(kReverse);
    weights_.set_rate(kRate);
  }
  format::Encoding read(const std::string& linear) const { return *coarse_.packed({linear + ".weight", {}}); }
  std::vector<float> unquantized(const TunedBlock::Linear& linear) const {
    std::vector<float> weight(static_cast<std::size_t>(linear.out_features * linear.in_features));
    fine_.read({linear.name + ".weight", {linear.out_features, linear.in_features}}, weight);
    return weight;
  }
  void step(std::int64_t number) {
    std::vector<float> gradient;
    last_loss_ = distillation_.differentiate(number, distillation_.initial(), gradient);
    weights_.recode(distillation_.initial(), [](std::span<const float> all, std::size_t) { return all; });
  }
  /// The loss of step 0 with that student, by the forward pass alone.
  double plain_loss(const model::WeightSource& source) {
    model::Transformer student(source, context_, core::DType::f32), teacher(fine_, context_, core::DType::f32);
    double sum = 0;
    for (std::int64_t stripe = 0; stripe < sequences_.batch; ++stripe) {
      const auto ids = ids_of(windows_, window_of(sequences_, 0, 0, stripe));
      model::HiddenStates is = student.embed(ids, 1, kTrainedContext), wanted = teacher.embed(ids, 1, kTrainedContext);
      for (std::int64_t layer = 0; layer < 2; ++layer) {
        student.run_block(student.load_block(layer), is);
        teacher.run_block(teacher.load_block(layer), wanted);
      }
      for (const double loss : student.divergence(is, wanted, 0, nullptr, false, kReverse).loss) sum += loss;
    }
    return sum / static_cast<double>(sequences_.batch * kTrainedContext);
  }

  static constexpr double kRate = 0.01;
  backend::Context context_{backend::Device::cpu, 2};
  comm::Communicator world_ = comm::Communicator::alone();
  test::EncodedSource fine_ = source_of(8, false), coarse_ = source_of(2, true), plain_ = source_of(2, false);
  model::Transformer student_{coarse_, context_, core::DType::f32};
  model::Windows windows_;
  Sequences sequences_{2, {0, 1}, {2, 3}};
  Distillation distillation_{context_,     world_,
                             student_,     [this](const std::string& linear) { return read(linear); },
                             {},           windows_,
                             sequences_,   0,
                             std::nullopt, PackedParts::followers};
  WeightUpdate weights_{context_, world_, distillation_.blocks(),
                        [this](const TunedBlock::Linear& linear) { return unquantized(linear); }};
  double last_loss_ = 0;
};

TEST_F(WeightUpdateTest, TheFirstStepGoesDownEachWeightsOwnSlope) {
  const std::vector<std::byte> codes = weights_.codes();
  const TunedBlock& block = *distillation_.blocks()[0];
  std::vector<std::vector<float>> before;
  for (std::size_t i = 0; i < block.linears().size(); ++i) before.push_back(weights_.followed(0, i).values);
  step(0);
  EXPECT_NEAR(last_loss_, plain_loss(plain_), 1e-6);
  EXPECT_NE(weights_.codes(), codes);
  std::int64_t n_met = 0;
  for (std::size_t i = 0; i < block.linears().size(); ++i) {
    const TunedBlock::Linear& linear = block.linears()[i];
    const std::vector<float>& after = weights_.followed(0, i).values;
    double square = 0;
    for (const float value : before[i]) square += static_cast<double>(value) * static_cast<double>(value);
    const double most = kRate * std::sqrt(square / static_cast<double>(before[i].size()));
    for (std::size_t place = 3; place < after.size(); place += 41) {
      constexpr float kNudge = 0.02F;
      const std::string tensor = linear.name + ".weight";
      const double slope =
          (plain_loss(Nudged(plain_, tensor, place, kNudge)) - plain_loss(Nudged(plain_, tensor, place, -kNudge))) /
          (2 * static_cast<double>(kNudge));
      if (std::fabs(slope) < 2e-4) continue;
      // Adam's first step is one of full length for every number.
      EXPECT_NEAR(static_cast<double>(after[place]) - static_cast<double>(before[i][place]), slope > 0 ? -most : most,
                  0.01 * most)
          << linear.name << " " << place << ", slope " << slope;
      ++n_met;
    }
  }
  EXPECT_GT(n_met, 30);
}

TEST_F(WeightUpdateTest, LowersTheLossFarBelowThatOfTheFirstCodes) {
  step(0);
  const double first = last_loss_, held_out = distillation_.held_out_loss(distillation_.initial());
  for (std::int64_t i = 1; i < 60; ++i) step(i);
  EXPECT_LT(last_loss_, 0.3 * first);
  EXPECT_LT(distillation_.held_out_loss(distillation_.initial()), held_out);
}

TEST_F(WeightUpdateTest, GoesOnFromWhatIsKeptToTheSameBytes) {
  for (std::int64_t i = 0; i < 5; ++i) step(i);
  weights_.settle();
  const std::vector<std::byte> kept_codes = weights_.codes();
  std::vector<MovingCodes::Settled> kept;
  for (std::int64_t layer = 0; layer < 2; ++layer) kept.push_back(weights_.settled(layer));
  for (std::int64_t i = 5; i < 10; ++i) step(i);
  const std::vector<std::byte> codes = weights_.codes();
  ASSERT_NE(codes, kept_codes);

  weights_.drop();
  weights_.set_codes(kept_codes);
  for (std::int64_t layer = 0; layer < 2; ++layer) weights_.set_settled(layer, kept[static_cast<std::size_t>(layer)]);
  for (std::int64_t i = 5; i < 10; ++i) step(i);
  EXPECT_EQ(weights_.codes(), codes);
  // Without what was kept it would be another way.
  weights_.set_codes(kept_codes);
  weights_.drop();
  for (std::int64_t i = 5; i < 10; ++i) step(i);
  EXPECT_NE(weights_.codes(), codes);
}

TEST_F(WeightUpdateTest, GoesBackToTheBestCodesAndForgetsWhatWasSummed) {
  weights_.keep_best();
  const std::vector<std::byte> best = weights_.codes();
  for (std::int64_t i = 0; i < 4; ++i) step(i);
  ASSERT_NE(weights_.codes(), best);
  std::vector<float> gradient;
  (void)distillation_.differentiate(4, distillation_.initial(), gradient);  // a loss that ran away: no step
  weights_.go_back();
  EXPECT_EQ(weights_.codes(), best);
  step(5);  // finds no stripe that was added before
  EXPECT_NE(weights_.codes(), best);
}

TEST_F(WeightUpdateTest, ConfidenceIsTheTeachersMeanLargestProbability) {
  model::Transformer teacher(fine_, context_, core::DType::f32);
  double sum = 0;
  std::vector<std::int64_t> rows;
  for (std::int64_t t = 0; t < kTrainedContext; ++t) rows.push_back(t);
  for (const std::int64_t window : sequences_.held_out) {
    model::HiddenStates hidden = teacher.embed(ids_of(windows_, window), 1, kTrainedContext);
    for (std::int64_t layer = 0; layer < 2; ++layer) teacher.run_block(teacher.load_block(layer), hidden);
    const std::vector<float> logits = teacher.logits(hidden, rows);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      double largest = 0, all = 0;
      for (std::size_t v = 0; v < 50; ++v) {
        const double share = std::exp(static_cast<double>(logits[r * 50 + v]));
        largest = std::max(largest, share);
        all += share;
      }
      sum += largest / all;
    }
  }
  EXPECT_NEAR(distillation_.confidence(), sum / static_cast<double>(2 * kTrainedContext), 1e-6);
}

TEST(WeightRate, FallsWithTheBitsAndTheWidth) {
  EXPECT_NEAR(weight_rate(2, 64), 0.015, 1e-12);
  EXPECT_NEAR(weight_rate(3, 64), 0.25 * weight_rate(2, 64), 1e-12);
  EXPECT_NEAR(weight_rate(2, 1150), 0.1 * weight_rate(2, 64), 1e-12);
}

}  // namespace
}  // namespace voronoi::tune
