// The forward pass against goldens of the real implementations (see the README of each folder of test data).
#include "model/transformer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/error.h"
#include "core/json.h"
#include "model/corpus.h"
#include "model/rope.h"
#include "model/tokenizer.h"
#include "model/weights.h"
#include "support/data.h"
#include "support/generated_source.h"
#include "support/tiny_models.h"

namespace voronoi::model {
namespace {

using backend::Array;

core::Json read_golden(const std::string& relative) {
  std::ifstream stream(test::data_path(relative));
  return core::Json::parse(stream);
}

/// A model with all its blocks loaded.
struct LoadedModel {
  LoadedModel(const std::string& path, int n_threads)
      : context(backend::Device::cpu, n_threads), source(open_model(path)), transformer(*source, context) {
    for (std::int64_t layer = 0; layer < transformer.config().n_layers; ++layer)
      blocks.push_back(transformer.load_block(layer));
  }

  HiddenStates forward(const std::vector<std::int32_t>& ids, std::int64_t n_sequences = 1) {
    HiddenStates hidden = transformer.embed(ids, n_sequences, static_cast<std::int64_t>(ids.size()) / n_sequences);
    for (const BlockWeights& block : blocks) transformer.run_block(block, hidden);
    return hidden;
  }

  std::int32_t next_id(const std::vector<std::int32_t>& ids) {
    const std::vector<std::int64_t> last{static_cast<std::int64_t>(ids.size()) - 1};
    const std::vector<float> logits = transformer.logits(forward(ids), last);
    return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }

  backend::Context context;
  std::unique_ptr<WeightSource> source;
  Transformer transformer;
  std::vector<BlockWeights> blocks;
};

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

/// A generated model that gives rows.
class RowsSource final : public WeightSource {
 public:
  explicit RowsSource(const test::GeneratedSource& whole) : whole_(whole) {}
  const ModelConfig& config() const override { return whole_.config(); }
  void read(const TensorSpec& spec, std::span<float> out) const override { whole_.read(spec, out); }
  bool read_rows(const TensorSpec& spec, std::int64_t first_row, std::span<float> out) const override {
    const std::vector<float>& values = whole_.tensors.at(spec.name);
    std::copy_n(values.begin() + first_row * spec.shape.back(), out.size(), out.begin());
    return true;
  }
  std::string fingerprint() const override { return {}; }
  const std::string& path() const override { return whole_.path(); }

 private:
  const test::GeneratedSource& whole_;
};

class TinyRandom : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string folder = test::tiny_folder(GetParam());
    VORONOI_NEEDS_DATA(folder + "/golden.json");
    golden_ = read_golden(folder + "/golden.json");
    model_ = std::make_unique<LoadedModel>(test::data_path(folder), 2);
  }

  std::vector<std::int32_t> ids(std::size_t sequence) const { return golden_.at("sequences").at(sequence).at("ids"); }

  core::Json golden_;
  std::unique_ptr<LoadedModel> model_;
};

TEST_P(TinyRandom, LogitsAndLikelihoodsAreThoseOfTheRealImplementation) {
  for (std::size_t s = 0; s < golden_.at("sequences").size(); ++s) {
    const HiddenStates hidden = model_->forward(ids(s));
    const core::Json& sequence = golden_.at("sequences").at(s);
    for (const auto& [position, expected] : sequence.at("logits").items()) {
      const std::vector<float> logits =
          model_->transformer.logits(hidden, std::vector<std::int64_t>{std::stoll(position)});
      ASSERT_EQ(logits.size(), expected.size());
      for (std::size_t i = 0; i < logits.size(); ++i)
        ASSERT_NEAR(logits[i], expected.at(i).get<double>(), 1e-4) << position << ", " << i;
    }
    EXPECT_NEAR(mean(model_->transformer.next_token_nll(hidden, ids(s))), sequence.at("mean_nll").get<double>(), 1e-5);
  }
}

TEST_P(TinyRandom, HiddenStatesAfterTheFirstBlockMatch) {
  HiddenStates hidden = model_->transformer.embed(ids(0), 1, static_cast<std::int64_t>(ids(0).size()));
  model_->transformer.run_block(model_->blocks.at(0), hidden);
  const auto width = static_cast<std::size_t>(model_->transformer.config().hidden_size);
  for (const auto& [position, expected] : golden_.at("hidden_after_block_0").items())
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(hidden.values.span()[std::stoul(position) * width + i], expected.at(i).get<double>(), 5e-5)
          << position;
}

TEST_P(TinyRandom, GreedyIdsMatch) {
  std::vector<std::int32_t> sequence = ids(golden_.at("greedy").at("prompt_sequence").get<std::size_t>());
  for (const std::int32_t expected : golden_.at("greedy").at("ids").get<std::vector<std::int32_t>>()) {
    sequence.push_back(model_->next_id(sequence));
    ASSERT_EQ(sequence.back(), expected);
  }
}

struct Observed {
  std::int64_t n_rows = 0, dim = 0;
  std::vector<double> sum;

  double entry(std::int64_t i, std::int64_t j) const {
    const std::int64_t row = std::max(i, j);
    return sum[static_cast<std::size_t>(row * (row + 1) / 2 + std::min(i, j))] / static_cast<double>(n_rows);
  }
  void add(const Observed& other) {
    n_rows += other.n_rows;
    dim = other.dim;
    sum.resize(other.sum.size());
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += other.sum[i];
  }
};

/// E[x x^T] by its golden figures.
void expect_golden(const std::string& name, const Observed& site, const core::Json& expected) {
  ASSERT_EQ(site.n_rows, expected.at("n").get<std::int64_t>()) << name;
  ASSERT_EQ(site.dim, expected.at("dim").get<std::int64_t>()) << name;
  double trace = 0, squares = 0;
  for (std::int64_t i = 0; i < site.dim; ++i) {
    trace += site.entry(i, i);
    for (std::int64_t j = 0; j < site.dim; ++j) squares += site.entry(i, j) * site.entry(i, j);
  }
  const double fro = expected.at("fro").get<double>(), bound = 1e-5 * fro;
  EXPECT_NEAR(std::sqrt(squares), fro, bound) << name;
  EXPECT_NEAR(trace, expected.at("trace").get<double>(), bound) << name;
  EXPECT_NEAR(site.entry(0, 0), expected.at("h00").get<double>(), bound) << name;
  EXPECT_NEAR(site.entry(0, 1), expected.at("h01").get<double>(), bound) << name;
  EXPECT_NEAR(site.entry(site.dim - 1, site.dim - 1), expected.at("hlast").get<double>(), bound) << name;
}

TEST_P(TinyRandom, ObservedInputsGiveTheGoldenHessians) {
  const ModelConfig& config = model_->transformer.config();
  HiddenStates hidden = model_->transformer.embed(ids(0), 1, static_cast<std::int64_t>(ids(0).size()));
  for (std::int64_t layer = 0; layer < config.n_layers; ++layer) {
    std::map<std::string, Observed> observed;
    const std::vector<SiteSpec> sites = block_sites(config, layer);
    std::size_t next = 0;
    model_->transformer.run_block(
        model_->blocks.at(static_cast<std::size_t>(layer)), hidden,
        [&](const SiteSpec& site, std::size_t index, const float* x, std::int64_t n_rows, auto) {
          while (next < index && sites.at(next).expert >= 0) ++next;  // of experts that no token chose
          EXPECT_EQ(index, next++);
          EXPECT_EQ(site.name, sites.at(index).name);
          Observed& at = observed[site.name];
          at.dim = site.in_features;
          at.n_rows += n_rows;
          at.sum.resize(static_cast<std::size_t>(at.dim * (at.dim + 1) / 2));
          model_->context.linalg().gram_accumulate(model_->context.exec(), n_rows, at.dim, x, at.dim, core::DType::f32,
                                                   at.sum.data());
        });
    while (next < sites.size() && sites.at(next).expert >= 0) ++next;
    EXPECT_EQ(next, sites.size());
    const auto golden = golden_.find("hessian_block_" + std::to_string(layer));
    if (golden == golden_.end()) continue;
    if (is_mixture(config, layer)) {
      // The router sees every token once, the experts together every token top_k times; or what the shared expert does.
      Observed& router = observed["router"];
      if (config.mixture.weighs_input) {
        router = observed.at("shared_expert.gate_up");
      } else {
        for (const SiteSpec& site : sites)
          if (site.expert >= 0 && site.name.ends_with("gate_up") && observed.contains(site.name))
            router.add(observed.at(site.name));
        ASSERT_EQ(router.n_rows, hidden.n_tokens * config.mixture.top_k);
        for (double& value : router.sum) value /= static_cast<double>(config.mixture.top_k);
        router.n_rows = hidden.n_tokens;
      }
    }
    EXPECT_EQ(golden->size(), observed.size());
    for (const auto& [name, expected] : golden->items()) {
      ASSERT_TRUE(observed.contains(name)) << name;
      expect_golden(name, observed.at(name), expected);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TinyRandom,
                         ::testing::Values("llama2", "llama3", "llama-bias-headdim", "llama-tied", "mistral",
                                           "mistral-window", "qwen2", "qwen2-window", "qwen2-yarn", "qwen3", "mixtral",
                                           "qwen2-moe", "qwen3-moe", "gemma", "gemma2", "phi3"),
                         test::tiny_test_name);
INSTANTIATE_TEST_SUITE_P(MoreModels, TinyRandom, ::testing::ValuesIn(test::more_models()), test::tiny_test_name);

TEST_P(TinyRandom, ResultsDependOnNeitherThreadsNorBatches) {
  LoadedModel one(model_->source->path(), 1);
  const auto vocab = static_cast<std::int32_t>(one.transformer.config().vocab_size);
  std::vector<std::int32_t> batch;
  for (std::int32_t i = 0; i < 5 * 110; ++i) batch.push_back(i * i % 509 % vocab);
  const HiddenStates together = one.forward(batch, 5), threaded = model_->forward(batch, 5);
  EXPECT_TRUE(std::ranges::equal(together.values.span(), threaded.values.span()));
  const std::size_t sequence = 110 * static_cast<std::size_t>(one.transformer.config().hidden_size);
  for (std::size_t s = 0; s < 5; ++s) {
    const auto first = batch.begin() + static_cast<std::ptrdiff_t>(110 * s);
    const HiddenStates alone = one.forward({first, first + 110});
    EXPECT_TRUE(std::ranges::equal(alone.values.span(), together.values.span().subspan(s * sequence, sequence)));
  }
}

TEST(Transformer, ResultsDependOnNeitherThreadsNorBatches) {
  VORONOI_NEEDS_DATA("models/stories260K/hf");
  LoadedModel one(test::data_path("models/stories260K/hf"), 1), three(test::data_path("models/stories260K/hf"), 3);
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 5 * 110; ++i) ids.push_back(3 + i * i % 509);
  const HiddenStates together = one.forward(ids, 5), threaded = three.forward(ids, 5);
  EXPECT_TRUE(std::ranges::equal(together.values.span(), threaded.values.span()));
  const std::vector<double> nll = one.transformer.next_token_nll(together, ids);
  EXPECT_EQ(nll, three.transformer.next_token_nll(threaded, ids));
  ASSERT_EQ(nll.size(), 5U * 109U);
  for (std::ptrdiff_t s = 0; s < 5; ++s) {
    const std::vector<std::int32_t> sequence(ids.begin() + s * 110, ids.begin() + (s + 1) * 110);
    const HiddenStates alone = one.forward(sequence);
    EXPECT_TRUE(std::ranges::equal(alone.values.span(),
                                   together.values.span().subspan(static_cast<std::size_t>(s * 110 * 64), 110 * 64)));
    const std::vector<double> own = one.transformer.next_token_nll(alone, sequence);
    EXPECT_TRUE(std::equal(own.begin(), own.end(), nll.begin() + s * 109));
  }
}

/// The embedding is kept as it is stored, and looked up with the same bits; a tied head has them in fp32.
TEST(Transformer, TablesOf16BitsAreWidenedExactly) {
  for (const bool tied : {false, true})
    for (const auto& [stated, lower_bits] :
         {std::pair{"bfloat16", 0U}, std::pair{"float16", 0U}, std::pair{"bfloat16", 1U}}) {
      test::GeneratedSource plain({{"dtype", stated}, {"tie_word_embeddings", tied}});
      std::vector<float>& table = plain.tensors.at("model.embed_tokens.weight");
      for (float& value : table) value = core::round_to(plain.config().stored_dtype, value);
      table.back() = std::bit_cast<float>(std::bit_cast<std::uint32_t>(table.back()) | lower_bits);
      const RowsSource source(plain);
      backend::Context context(backend::Device::cpu, 1);
      Transformer by_rows(source, context), whole(plain, context);
      const std::vector<std::int32_t> ids{36, 0, 5, 36};
      const std::vector<std::int64_t> last{3};
      for (int again = 0; again < 2; ++again) {
        const HiddenStates hidden = by_rows.embed(ids, 1, 4), expected = whole.embed(ids, 1, 4);
        EXPECT_EQ(hidden.values.to_host(), expected.values.to_host()) << stated << lower_bits;
        EXPECT_EQ(by_rows.logits(hidden, last), whole.logits(expected, last)) << stated << lower_bits << tied;
        if (again == 0) by_rows.release_tables();
      }
    }
  // A table of two parts, the last value of which needs more bits than its type has.
  test::GeneratedSource plain({{"dtype", "bfloat16"},
                               {"tie_word_embeddings", true},
                               {"hidden_size", 1024},
                               {"vocab_size", 4500},
                               {"num_hidden_layers", 1}});
  std::vector<float>& table = plain.tensors.at("model.embed_tokens.weight");
  ASSERT_GT(4 * std::ssize(table), kTablePartBytes);
  for (float& value : table) value = core::round_to(core::DType::bf16, value);
  for (const float last : {table.back(), std::nextafter(table.back(), 0.0F)}) {
    table.back() = last;
    const RowsSource source(plain);
    backend::Context context(backend::Device::cpu, 1);
    Transformer by_rows(source, context), whole(plain, context);
    const std::vector<std::int32_t> ids{0, 4095, 4096, 4499};
    EXPECT_EQ(by_rows.embed(ids, 1, 4).values.to_host(), whole.embed(ids, 1, 4).values.to_host()) << last;
  }
}

TEST(Transformer, IdsOutsideTheVocabularyAreRefused) {
  VORONOI_NEEDS_DATA("models/stories260K/hf");
  LoadedModel model(test::data_path("models/stories260K/hf"), 1);
  EXPECT_THROW(model.transformer.embed(std::vector<std::int32_t>{1, 512}, 1, 2), core::FormatError);
  EXPECT_THROW(model.transformer.embed(std::vector<std::int32_t>{1, -1}, 1, 2), core::FormatError);
  const HiddenStates hidden = model.forward({1, 2});
  EXPECT_THROW(model.transformer.next_token_nll(hidden, std::vector<std::int32_t>{1, 512}), core::FormatError);
  EXPECT_THROW(model.transformer.next_token_nll(hidden, std::vector<std::int32_t>{1}), core::InternalError);
  EXPECT_THROW(model.transformer.logits(hidden, std::vector<std::int64_t>{2}), core::InternalError);
}

TEST(Stories260K, GreedyStoryIsExact) {
  VORONOI_NEEDS_DATA("models/stories260K/golden.json");
  const core::Json golden = read_golden("models/stories260K/golden.json");
  LoadedModel model(test::data_path("models/stories260K/hf"), 2);
  const std::vector<std::int32_t> expected = golden.at("greedy").at("ids");
  std::vector<std::int32_t> ids{expected.front()};
  while (ids.size() < expected.size()) {
    ids.push_back(model.next_id(ids));
    ASSERT_EQ(ids.back(), expected[ids.size() - 1]) << "after " << ids.size() - 1 << " ids";
  }
  EXPECT_NEAR(mean(model.transformer.next_token_nll(model.forward(expected), expected)),
              golden.at("greedy").at("mean_nll").get<double>(), 1e-5);
}

TEST(Stories260K, LastLogitsMatch) {
  VORONOI_NEEDS_DATA("models/stories260K/golden.json");
  const core::Json golden = read_golden("models/stories260K/golden.json").at("prompt");
  LoadedModel model(test::data_path("models/stories260K/hf"), 2);
  const std::vector<std::int32_t> ids = golden.at("ids");
  const std::vector<float> logits = model.transformer.logits(
      model.forward(ids), std::vector<std::int64_t>{static_cast<std::int64_t>(ids.size()) - 1});
  for (const core::Json& pair : golden.at("last_logits_top10"))
    EXPECT_NEAR(logits.at(pair.at(0).get<std::size_t>()), pair.at(1).get<double>(), 1e-4);
  double sum = 0;
  for (const float logit : logits) sum += static_cast<double>(logit);
  EXPECT_NEAR(sum, golden.at("last_logits_sum").get<double>(), 1e-2);
}

TEST(Stories260K, PerplexityOfWikiTextMatches) {
  VORONOI_NEEDS_DATA("models/stories260K/golden.json");
  VORONOI_NEEDS_DATA("wikitext2/wiki.test.raw");
  const core::Json golden = read_golden("models/stories260K/golden.json").at("wikitext2_test_first16");
  const auto tokenizer = open_tokenizer(test::data_path("models/stories260K/tok512.model"));
  const Text text = load_text(test::data_path("wikitext2/wiki.test.raw"), Join::wikitext);
  const std::vector<std::int32_t> ids = tokenize(*tokenizer, text, BosRule::never);
  ASSERT_EQ(ids.size(), golden.at("total_ids").get<std::size_t>());
  const Windows windows = leading_windows(ids, 512, 16, text.path);
  LoadedModel model(test::data_path("models/stories260K/hf"), 2);
  const std::vector<double> nll =
      model.transformer.next_token_nll(model.forward(windows.ids, windows.count), windows.ids);
  ASSERT_EQ(nll.size(), golden.at("predictions").get<std::size_t>());
  EXPECT_NEAR(std::exp(mean(nll)), golden.at("ppl").get<double>(), 0.01);
}

class Smollm2 : public ::testing::Test {
 protected:
  void SetUp() override {
    VORONOI_NEEDS_DATA("models/smollm2/golden.json");
    const char* path = std::getenv("VORONOI_SMOLLM2_GGUF");
    if (path == nullptr) VORONOI_SKIP_MISSING("VORONOI_SMOLLM2_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf");
    golden_ = read_golden("models/smollm2/golden.json");
    model_ = std::make_unique<LoadedModel>(path, 2);
  }
  core::Json golden_;
  std::unique_ptr<LoadedModel> model_;
};

TEST_F(Smollm2, LogitsAreThoseOfTheRealImplementation) {
  const std::vector<std::int32_t> ids = golden_.at("first_64_ids");
  const HiddenStates hidden = model_->forward(ids);
  for (const auto& [position, expected] : golden_.at("logits_at").items()) {
    const std::vector<float> logits =
        model_->transformer.logits(hidden, std::vector<std::int64_t>{std::stoll(position)});
    for (const core::Json& pair : expected.at("top10"))
      EXPECT_NEAR(logits.at(pair.at(0).get<std::size_t>()), pair.at(1).get<double>(), 2e-3) << position;
    for (std::size_t i = 0; i < 8; ++i)
      EXPECT_NEAR(logits[i], expected.at("first8").at(i).get<double>(), 2e-3) << position;
  }
  const std::vector<double> nll = model_->transformer.next_token_nll(hidden, ids);
  ASSERT_EQ(nll.size(), 63U);
  for (std::size_t i = 0; i < nll.size(); ++i)
    EXPECT_NEAR(nll[i], golden_.at("nll_first_512").at("values").at(i).get<double>(), 2e-3) << i;
}

TEST_F(Smollm2, LikelihoodsOfWikiTextMatch) {
  VORONOI_NEEDS_DATA("wikitext2/wiki.test.raw");
  const Text text = load_text(test::data_path("wikitext2/wiki.test.raw"), Join::wikitext);
  std::vector<std::int32_t> ids = tokenize(*open_tokenizer(model_->source->path()), text, BosRule::automatic);
  ASSERT_EQ(ids.size(), golden_.at("wikitext2_test_joined_tokens").get<std::size_t>());
  ids.resize(512);
  const std::vector<double> expected = golden_.at("nll_first_512").at("values");
  const std::vector<double> nll = model_->transformer.next_token_nll(model_->forward(ids), ids);
  ASSERT_LE(expected.size(), nll.size());
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(nll[i], expected[i], 2e-3) << i;
  EXPECT_NEAR(mean(nll) * 511, golden_.at("nll_first_512").at("sum").get<double>(), 0.05);
}

TEST_F(Smollm2, GreedyIdsMatch) {
  const std::vector<std::int32_t> expected = golden_.at("greedy").at("ids");
  std::vector<std::int32_t> ids = golden_.at("greedy").at("prompt_ids");
  while (ids.size() < expected.size()) ids.push_back(model_->next_id(ids));
  EXPECT_EQ(ids, expected);
}

TEST(Rope, PlainFrequenciesFallGeometrically) {
  RopeConfig rope;
  rope.theta = 10000;
  const std::vector<double> frequencies = rope_frequencies(rope, 8);
  ASSERT_EQ(frequencies.size(), 4U);
  EXPECT_DOUBLE_EQ(frequencies[0], 1.0);
  EXPECT_NEAR(frequencies[1], 0.1, 1e-15);
  EXPECT_NEAR(frequencies[3], 0.001, 1e-15);
  const std::vector<float> table = rope_table(rope, 8, 3);
  EXPECT_FLOAT_EQ(table[2 * 8 + 1], std::cos(0.2F));
  EXPECT_FLOAT_EQ(table[2 * 8 + 4 + 1], std::sin(0.2F));
}

TEST(Rope, LinearScalingStretchesEveryPosition) {
  RopeConfig rope;
  rope.scaling = RopeScaling::linear;
  rope.factor = 4;
  EXPECT_DOUBLE_EQ(rope_frequencies(rope, 4)[0], 0.25);
  EXPECT_DOUBLE_EQ(rope_attention_factor(rope), 1.0);
}

TEST(Rope, YarnKeepsFastPairsAndStretchesSlowOnes) {
  RopeConfig rope;
  rope.scaling = RopeScaling::yarn;
  rope.factor = 4;
  rope.original_max_position = 2048;
  const std::vector<double> yarn = rope_frequencies(rope, 64);
  rope.scaling = RopeScaling::none;
  const std::vector<double> plain = rope_frequencies(rope, 64);
  EXPECT_DOUBLE_EQ(yarn.front(), plain.front());
  EXPECT_DOUBLE_EQ(yarn.back(), plain.back() / 4);
  rope.scaling = RopeScaling::yarn;
  EXPECT_NEAR(rope_attention_factor(rope), 0.1 * std::log(4.0) + 1, 1e-15);
  rope.attention_factor = 1.25;
  EXPECT_FLOAT_EQ(rope_table(rope, 64, 1)[0], 1.25F);
  // Ends that are not rounded lie between those that are: pair 20 of 32 is on the ramp.
  rope.truncate = false;
  EXPECT_GT(rope_frequencies(rope, 64)[20], plain[20] / 4);
  EXPECT_NE(rope_frequencies(rope, 64)[20], yarn[20]);
}

TEST(Rope, DynamicScalingFollowsTheLength) {
  RopeConfig rope;
  rope.scaling = RopeScaling::dynamic;
  rope.theta = 100;
  rope.factor = 3;
  rope.original_max_position = 16;
  EXPECT_EQ(rope_frequencies(rope, 4, 1), rope_frequencies(rope, 4, 16));
  EXPECT_DOUBLE_EQ(rope_frequencies(rope, 4, 16)[1], 0.1);
  // At twice the length theta is times (3 * 2 - 2)^(4 / 2) = 16.
  EXPECT_DOUBLE_EQ(rope_frequencies(rope, 4, 32)[1], 1 / 40.0);
  EXPECT_EQ(rope_kind(rope, 3), rope_kind(rope, 16));
  EXPECT_NE(rope_kind(rope, 17), rope_kind(rope, 18));
  EXPECT_EQ(rope_limit(rope), 16);
}

TEST(Rope, LongropeHasTwoListsOfDivisors) {
  RopeConfig rope;
  rope.scaling = RopeScaling::longrope;
  rope.theta = 100;
  rope.factor = 16;
  rope.original_max_position = 4;
  rope.short_factor = {1, 2};
  rope.long_factor = {4, 5};
  EXPECT_DOUBLE_EQ(rope_frequencies(rope, 4, 4)[1], 0.1 / 2);
  EXPECT_DOUBLE_EQ(rope_frequencies(rope, 4, 5)[0], 1.0 / 4);
  EXPECT_DOUBLE_EQ(rope_frequencies(rope, 4, 500)[1], 0.1 / 5);
  EXPECT_EQ(rope_kind(rope, 5), rope_kind(rope, 500));
  EXPECT_NE(rope_kind(rope, 4), rope_kind(rope, 5));
  EXPECT_DOUBLE_EQ(rope_attention_factor(rope), std::sqrt(1 + 2.0));  // ln 16 / ln 4
}

}  // namespace
}  // namespace voronoi::model
