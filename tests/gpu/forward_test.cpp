// The whole forward pass and the Hessian trees on the GPU's context: against goldens of the real implementations and
// against the CPU's context in the same precision.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <string>

#include "calib/hessian_tree.h"
#include "core/json.h"
#include "gpu/gpu_fixture.h"
#include "model/block_prefetcher.h"
#include "model/transformer.h"
#include "model/weights.h"
#include "support/data.h"
#include "support/tiny_models.h"
#include "support/tree_mean.h"

namespace voronoi::model {
namespace {

core::Json read_golden(const std::string& relative) {
  std::ifstream stream(test::data_path(relative));
  return core::Json::parse(stream);
}

std::vector<std::int64_t> all_layers(const ModelConfig& config) {
  std::vector<std::int64_t> layers;
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) layers.push_back(layer);
  return layers;
}

struct Result {
  std::vector<float> logits;  ///< of every position
  std::vector<double> nll;
};

Result forward(const WeightSource& source, backend::Context& context, std::optional<core::DType> dtype,
               const std::vector<std::int32_t>& ids, std::int64_t n_sequences = 1) {
  Transformer transformer(source, context, dtype);
  const auto n_ids = static_cast<std::int64_t>(ids.size());
  HiddenStates hidden = transformer.embed(ids, n_sequences, n_ids / n_sequences);
  BlockPrefetcher blocks(transformer, context, all_layers(source.config()));
  for (std::int64_t layer = 0; layer < source.config().n_layers; ++layer) transformer.run_block(blocks.next(), hidden);
  std::vector<std::int64_t> rows(ids.size());
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::int64_t>(i);
  return {transformer.logits(hidden, rows), transformer.next_token_nll(hidden, ids)};
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return largest;
}

double largest_magnitude(const std::vector<float>& values) {
  double largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(static_cast<double>(value)));
  return largest;
}

class GpuTinyRandom : public test::GpuTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    test::GpuTest::SetUp();
    if (IsSkipped()) return;
    const std::string folder = test::tiny_folder(GetParam());
    VORONOI_NEEDS_DATA(folder + "/golden.json");
    golden_ = read_golden(folder + "/golden.json");
    source_ = open_model(test::data_path(folder));
  }
  std::vector<std::int32_t> ids(std::size_t sequence) const { return golden_.at("sequences").at(sequence).at("ids"); }

  core::Json golden_;
  std::unique_ptr<WeightSource> source_;
};

TEST_P(GpuTinyRandom, Fp32GivesTheGoldenLogits) {
  const auto vocab = static_cast<std::size_t>(source_->config().vocab_size);
  for (std::size_t s = 0; s < golden_.at("sequences").size(); ++s) {
    const Result result = forward(*source_, gpu(), core::DType::f32, ids(s));
    for (const auto& [position, expected] : golden_.at("sequences").at(s).at("logits").items())
      for (std::size_t i = 0; i < vocab; ++i)
        ASSERT_NEAR(result.logits[std::stoul(position) * vocab + i], expected.at(i).get<double>(), 1e-4)
            << position << ", " << i;
  }
}

TEST_P(GpuTinyRandom, SixteenBitsStayCloseToTheCpuTwins) {
  // Where experts lie closer together than 16 bits move what they are chosen by, each twin takes its own.
  const std::string name = GetParam();
  if (name == "deepseek-v3" || name == "gpt-oss-mxfp4") return;
  for (const core::DType dtype : {core::DType::f16, core::DType::bf16}) {
    const Result ours = forward(*source_, gpu(), dtype, ids(0)), twin = forward(*source_, cpu(), dtype, ids(0)),
                 exact = forward(*source_, cpu(), core::DType::f32, ids(0));
    // A value that falls on the other side of a rounding boundary, or a numerator rounded on one side only, is half a
    // unit of the type away; a few blocks carry that on. The twins are to be no further from each other than the type
    // is from fp32, give or take.
    const double unit = dtype == core::DType::f16 ? 0x1p-11 : 0x1p-8, size = largest_magnitude(exact.logits);
    EXPECT_LT(largest_difference(ours.logits, twin.logits), 8 * unit * size);
    EXPECT_LT(largest_difference(ours.logits, exact.logits), 12 * unit * size);
    EXPECT_GT(largest_difference(ours.logits, exact.logits), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GpuTinyRandom,
                         ::testing::Values("llama2", "llama3", "llama-bias-headdim", "llama-tied", "mistral",
                                           "mistral-window", "qwen2", "qwen2-window", "qwen2-yarn", "qwen3", "mixtral",
                                           "qwen2-moe", "qwen3-moe", "gemma", "gemma2", "phi3"),
                         test::tiny_test_name);
INSTANTIATE_TEST_SUITE_P(MoreModels, GpuTinyRandom, ::testing::ValuesIn(test::more_models()), test::tiny_test_name);

using GpuPrefetch = test::GpuTest;

class GpuStories : public test::GpuTest {
 protected:
  void SetUp() override {
    test::GpuTest::SetUp();
    if (IsSkipped()) return;
    VORONOI_NEEDS_DATA("models/stories260K/golden.json");
    golden_ = read_golden("models/stories260K/golden.json");
    source_ = open_model(test::data_path("models/stories260K/hf"));
  }
  core::Json golden_;
  std::unique_ptr<WeightSource> source_;
};

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

TEST_F(GpuStories, LikelihoodsOfTheGreedyStory) {
  const std::vector<std::int32_t> ids = golden_.at("greedy").at("ids");
  const double expected = golden_.at("greedy").at("mean_nll").get<double>();
  EXPECT_NEAR(mean(forward(*source_, gpu(), core::DType::f32, ids).nll), expected, 1e-5);
  EXPECT_NEAR(mean(forward(*source_, gpu(), core::DType::f16, ids).nll), expected, 1e-3);
  EXPECT_NEAR(mean(forward(*source_, gpu(), core::DType::bf16, ids).nll), expected, 1e-2);
}

TEST_F(GpuStories, SameBytesEveryTimeAndInEveryBatch) {
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 3 * 40; ++i) ids.push_back(3 + i * i % 509);
  for (const core::DType dtype : {core::DType::f32, core::DType::bf16}) {
    const Result together = forward(*source_, gpu(), dtype, ids, 3);
    EXPECT_EQ(together.logits, forward(*source_, gpu(), dtype, ids, 3).logits);
    EXPECT_EQ(together.nll, forward(*source_, gpu(), dtype, ids, 3).nll);
    const std::vector<double> last =
        forward(*source_, gpu(), dtype, std::vector<std::int32_t>(ids.begin() + 80, ids.end())).nll;
    EXPECT_TRUE(std::equal(last.begin(), last.end(), together.nll.begin() + 2 * 39));
  }
}

TEST_F(GpuStories, TheStoredTypeIsTheDefault) {
  EXPECT_EQ(Transformer(*source_, gpu()).dtype(), source_->config().stored_dtype);
  EXPECT_EQ(Transformer(*source_, cpu()).dtype(), core::DType::f32);
}

TEST_F(GpuStories, ReadingAheadChangesNothing) {
  Transformer transformer(*source_, gpu(), core::DType::f16);
  for (const std::int64_t most : {kReadAheadBytes, std::int64_t{0}}) {  // and all in parts
    BlockPrefetcher blocks(transformer, gpu(), all_layers(source_->config()), most);
    for (std::int64_t layer = 0; layer < source_->config().n_layers; ++layer) {
      const BlockWeights ahead = blocks.next(), now = transformer.load_block(layer);
      EXPECT_EQ(ahead.layer, layer);
      EXPECT_EQ(ahead.input_norm.to_host(), now.input_norm.to_host());
      ASSERT_EQ(ahead.linears.size(), now.linears.size());
      for (std::size_t site = 0; site < now.linears.size(); ++site)
        for (std::size_t i = 0; i < now.linears[site].size(); ++i)
          EXPECT_EQ(ahead.linears[site][i].narrow.to_host(), now.linears[site][i].narrow.to_host());
    }
    EXPECT_THROW(blocks.next(), core::InternalError);
  }
}

TEST_F(GpuPrefetch, BlocksOfExpertsComeInPartsAmongOthers) {
  const std::string folder = test::tiny_folder("llama4-maverick");
  VORONOI_NEEDS_DATA(folder + "/config.json");
  const auto source = open_model(test::data_path(folder));
  Transformer transformer(*source, gpu(), core::DType::bf16);
  const std::vector<std::int32_t> ids{3, 14, 15, 92, 65, 35, 89, 79, 32, 38};
  HiddenStates ahead = transformer.embed(ids, 1, 10), now = transformer.embed(ids, 1, 10);
  // The linears of blocks 0 and 2 have 15,180 weights, those of 1 and 3, with 4 experts and a shared one, 21,804.
  BlockPrefetcher blocks(transformer, gpu(), all_layers(source->config()), 2 * 18000);
  for (std::int64_t layer = 0; layer < source->config().n_layers; ++layer) {
    transformer.run_block(blocks.next(), ahead);
    transformer.run_block(transformer.load_block(layer), now);
  }
  EXPECT_EQ(ahead.values.to_host(), now.values.to_host());
}

/// A source whose block 2 cannot be read.
class BrokenSource final : public WeightSource {
 public:
  explicit BrokenSource(const WeightSource& original) : original_(original) {}
  const ModelConfig& config() const override { return original_.config(); }
  void read(const TensorSpec& spec, std::span<float> out) const override {
    if (spec.name.find("layers.2.") != std::string::npos) throw core::FormatError(path(), spec.name + " is damaged");
    original_.read(spec, out);
  }
  std::string fingerprint() const override { return original_.fingerprint(); }
  const std::string& path() const override { return original_.path(); }

 private:
  const WeightSource& original_;
};

TEST_F(GpuStories, ErrorsOfTheReaderArriveInTheirPlace) {
  const BrokenSource source(*source_);
  const Transformer transformer(source, gpu());
  BlockPrefetcher blocks(transformer, gpu(), all_layers(source.config()));
  EXPECT_EQ(blocks.next().layer, 0);
  EXPECT_THROW(blocks.next(), core::FormatError);
  // Left alone before its end, it ends its thread.
  BlockPrefetcher unused(transformer, gpu(), {0, 1, 2});
}

class GpuHessianTree : public test::GpuTest {};

TEST_F(GpuHessianTree, SumsAreThoseOfTheCpu) {
  constexpr std::int64_t kOrder = 37;
  calib::HessianTree ours(gpu(), kOrder), theirs(cpu(), kOrder);
  for (const std::int64_t chunk : {3, 0, 1, 6, 2}) {
    const std::vector<float> values = test::normal_values(ours.n_values(), static_cast<std::uint32_t>(chunk) + 1);
    const std::vector<double> sum(values.begin(), values.end());
    ours.add_chunk(chunk, on_gpu(sum), 2);
    theirs.add_chunk(chunk, backend::Array<double>(cpu(), std::span<const double>(sum)), 2);
  }
  EXPECT_EQ(ours.n_nodes(), 2);
  const calib::TreeMean mean = test::mean_of(gpu(), ours);
  EXPECT_EQ(mean.values, test::mean_of(cpu(), theirs).values);
  EXPECT_EQ(calib::HessianTree::n_tokens(mean.counts), 10);
}

TEST_F(GpuHessianTree, SoAreThoseOfOtherVectors) {
  calib::SumTree ours(gpu(), 300), theirs(cpu(), 300);
  for (const std::int64_t chunk : {3, 0, 1, 2, 5}) {
    const std::vector<float> values = test::normal_values(300, static_cast<std::uint32_t>(chunk) + 1);
    ours.add(chunk, on_gpu(values).data(), {1, chunk});
    theirs.add(chunk, values.data(), {1, chunk});
  }
  EXPECT_EQ(ours.n_nodes(), 2);
  EXPECT_EQ(ours.counts(), (calib::SumCounts{5, 11}));
  EXPECT_EQ(ours.total().to_host(), theirs.total().to_host());
}

}  // namespace
}  // namespace voronoi::model
