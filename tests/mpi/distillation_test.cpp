// End to end: where a rank keeps what it works on changes no bit, of loss and derivative, on any number of ranks. On
// the CPU, or on a GPU (VORONOI_TEST_DEVICE=cuda), the emulated one too.
#include "tune/distillation.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "support/encoded_source.h"
#include "support/skip.h"
#include "tune/weight_update.h"

namespace voronoi::tune {
namespace {

constexpr std::int64_t kContext = 12, kLayers = 5;

test::EncodedSource source_of(int bits) {
  return {[bits](std::int64_t n_out, std::int64_t n_in, std::span<const float> weight) {
            return test::uniform_of_weight(bits, 8, true, n_out, n_in, weight);
          },
          true, kLayers};
}

struct Figures {
  std::vector<float> gradient;
  double loss = 0, held_out = 0;
  bool operator==(const Figures&) const = default;
};

class DistillationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* name = std::getenv("VORONOI_TEST_DEVICE");
    const bool on_gpu = name != nullptr && std::string_view(name) == "cuda";
    if (on_gpu && kernels::cuda().device.count() == 0) VORONOI_SKIP_MACHINE("no GPU here");
    context_ = std::make_unique<backend::Context>(on_gpu ? backend::Device::cuda : backend::Device::cpu, 2);
  }

  DistillationTest() {
    windows_.count = 9;
    windows_.context = kContext;
    for (std::int64_t i = 0; i < windows_.count * kContext; ++i)
      windows_.ids.push_back(static_cast<std::int32_t>(i * i % 47));
    sequences_ = divide(windows_.count, 1, 0.2);
    sequences_.batch = 2;
    sequences_.training.resize(6);
  }

  format::Encoding read(const std::string& linear) const {
    for (const model::LinearSpec& spec : model::block_linears(student_.config()))
      if (spec.name == linear) return *student_.packed({linear + ".weight", {spec.out_features, spec.in_features}});
    throw core::InternalError(linear);
  }

  /// The codes after three steps of the weights behind them.
  std::vector<std::byte> trained(const Residence& residence) {
    model::Transformer student(student_, *context_, core::DType::f32), teacher(teacher_, *context_, core::DType::f32);
    Distillation distillation(
        *context_, world_, student, [this](const std::string& linear) { return read(linear); }, {}, windows_,
        sequences_, 5, residence, PackedParts::followers);
    WeightUpdate weights(*context_, world_, distillation.blocks(), [this](const TunedBlock::Linear& linear) {
      std::vector<float> weight(static_cast<std::size_t>(linear.out_features * linear.in_features));
      teacher_.read({linear.name + ".weight", {linear.out_features, linear.in_features}}, weight);
      return weight;
    });
    distillation.teach(teacher, [](std::int64_t, std::int64_t) {});
    distillation.move_codes(weights);
    distillation.mix_in_reverse(distillation.confidence());
    weights.set_rate(0.02);
    std::vector<float> gradient;
    for (std::int64_t step = 0; step < 3; ++step) {
      distillation.differentiate(step, distillation.initial(), gradient);
      weights.recode(distillation.initial(), [](std::span<const float> all, std::size_t) { return all; });
    }
    return weights.codes();
  }

  Figures figures(std::optional<Residence> residence) {
    model::Transformer student(student_, *context_, core::DType::f32), teacher(teacher_, *context_, core::DType::f32);
    Distillation distillation(
        *context_, world_, student, [this](const std::string& linear) { return read(linear); }, {}, windows_,
        sequences_, 5, residence);
    distillation.teach(teacher, [](std::int64_t, std::int64_t) {});
    std::vector<float> values = distillation.initial();
    Figures result;
    // A second step, at other numbers, finds the tapes of the first.
    for (std::int64_t step = 0; step < 2; ++step) {
      result.loss += distillation.differentiate(step, values, result.gradient);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] -= 0.01F * result.gradient[i];
    }
    result.held_out = distillation.held_out_loss(distillation.rounded(values));
    return result;
  }

  std::unique_ptr<backend::Context> context_;
  comm::Communicator world_ = comm::Communicator::world();
  test::EncodedSource student_ = source_of(3), teacher_ = source_of(8);
  model::Windows windows_;
  Sequences sequences_;
};

TEST_F(DistillationTest, TapesChangeNoBit) {
  const Figures without = figures(Residence{0, false});
  EXPECT_GT(without.loss, 0);
  for (const std::int64_t n_taped : {1, 2, 5}) EXPECT_EQ(figures(Residence{n_taped, false}), without) << n_taped;
  // The one that the memory allows.
  EXPECT_EQ(figures(std::nullopt), without);
}

TEST_F(DistillationTest, CodesThatComeFromTheHostChangeNoBit) {
  const Figures resident = figures(Residence{1, false});
  EXPECT_EQ(figures(Residence{1, true}), resident);
  EXPECT_EQ(figures(Residence{0, true}), resident);
}

TEST_F(DistillationTest, TrainedWeightsDoNotDependOnWhereTheirCodesLie) {
  const std::vector<std::byte> resident = trained({1, false});
  EXPECT_EQ(trained({0, false}), resident);
  EXPECT_EQ(trained({1, true}), resident);
  EXPECT_EQ(trained({0, true}), resident);
}

TEST_F(DistillationTest, StreamsThatAreComputedAgainChangeNoBit) {
  const std::int64_t hidden_size = student_.config().hidden_size;
  const std::int64_t stream = kContext * hidden_size * std::int64_t{sizeof(float)};
  EXPECT_EQ(stream_stride(kLayers, kContext, hidden_size), 1);
  const Figures all_kept = figures(Residence{0, false});
  for (const std::int64_t stride : {2, 3, 5}) {
    const std::int64_t budget = (kLayers + stride - 1) / stride * stream;
    EXPECT_EQ(stream_stride(kLayers, kContext, hidden_size, budget), stride);
    EXPECT_EQ(figures(Residence{0, false, budget}), all_kept) << stride;
  }
  EXPECT_EQ(figures(Residence{1, false, 2 * stream}), all_kept);
}

TEST(Residence, TapesTheLastBlocksThatFit) {
  const test::EncodedSource source = source_of(4);
  const model::ModelConfig& config = source.config();
  const std::int64_t one = model::tape_bytes(config, 1, kContext);
  EXPECT_GT(one, 0);
  EXPECT_EQ(taped_blocks(config, kContext, one - 1), 0);
  EXPECT_EQ(taped_blocks(config, kContext, one), 1);
  EXPECT_EQ(taped_blocks(config, kContext, 100 * one), config.n_layers);
}

}  // namespace
}  // namespace voronoi::tune
