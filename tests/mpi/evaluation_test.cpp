// What was evaluated is told again, not evaluated again: whoever reads the weights is counted.
#include "validation/evaluation.h"

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <optional>

#include "core/json.h"
#include "support/generated_source.h"
#include "support/temporary.h"
#include "validation/question_evaluation.h"
#include "validation/text_evaluation.h"

namespace voronoi::validation {
namespace {

class CountingSource final : public model::WeightSource {
 public:
  CountingSource(std::string name, float factor) : name_(std::move(name)), source_(core::Json::object()) {
    for (auto& [tensor, values] : source_.tensors)
      for (float& value : values) value *= factor;
  }
  const model::ModelConfig& config() const override { return source_.config(); }
  void read(const model::TensorSpec& spec, std::span<float> out) const override {
    ++n_reads;
    source_.read(spec, out);
  }
  std::string fingerprint() const override { return name_; }
  const std::string& path() const override { return name_; }
  mutable int n_reads = 0;

 private:
  std::string name_;
  test::GeneratedSource source_;
};

/// A run of a small model, with texts and questions beside it; the same on every rank.
class KeptEvaluations : public ::testing::Test {
 protected:
  KeptEvaluations() {
    std::string path;
    if (world_.rank() == 0) {
      scratch_.emplace();
      path = scratch_->path().string();
      write_files(path);
    }
    folder_ = world_.broadcast(path, 0);
    options_.texts = {folder_ + "/one.txt"};
    options_.context = 16;
    options_.windows = 5;
    protocol_.questions.directory = folder_;
    subjects_.push_back(subject("first"));
  }
  /// Nobody's files go while others look at them.
  ~KeptEvaluations() override { world_.broadcast("", 0); }

  static void write_files(const std::string& path) {
    core::Json vocabulary{{" ", 0}, {"\n", 1}, {".", 2}};
    for (char c = 'a'; c <= 'z'; ++c) vocabulary[std::string(1, c)] = vocabulary.size();
    std::ofstream(path + "/tokenizer.json")
        << core::Json{{"model", {{"type", "BPE"}, {"merges", core::Json::array()}, {"vocab", vocabulary}}}};
    for (const std::string name : {"one", "two"}) {
      std::ofstream text(path + "/" + name + ".txt");
      for (int i = 0; i < 60; ++i) text << name << static_cast<char>('a' + i * i % 26) << ' ';
      std::filesystem::create_directory(path + "/" + name);
      std::ofstream rows(path + "/" + name + "/*.jsonl");
      for (int i = 0; i < 6; ++i)
        rows << core::Json{{"q", name + std::string(1, static_cast<char>('a' + i))}, {"label", i % 2}} << "\n";
      std::ofstream(path + "/" + name + ".json") << core::Json{{"task", name},
                                                               {"data", name + "/*.jsonl"},
                                                               {"context", "{q} is"},
                                                               {"choices", core::Json::array({"so", "not"})},
                                                               {"gold", {{"field", "label"}}},
                                                               {"metrics", core::Json::array({"acc"})}};
    }
    std::filesystem::create_directory(path + "/run");
  }

  run::Subject subject(const std::string& content) {
    run::Subject subject;
    subject.content = content;
    subject.tokenizer = folder_ + "/tokenizer.json";
    subject.method = subject.label = "rtn";
    subject.original = original_;
    auto quantized = std::make_unique<CountingSource>(content, 0.9F);
    quantized_ = quantized.get();
    subject.quantized = std::move(quantized);
    subject.run = store::RunPaths{folder_ + "/run"};
    subject.bits_true = subject.bits_nominal = 2;
    return subject;
  }

  /// Reads of the unquantized and of the quantized weights by what is done; what it tells, in told_.
  std::pair<int, int> reads(const std::function<void(const TellResults&)>& work) {
    const int original = original_->n_reads, quantized = quantized_->n_reads;
    told_.clear();
    work([&](const run::Subject& of, const Evaluation& evaluation) {
      told_.push_back(evaluation);
      store_evaluation(*of.run, evaluation);
    });
    // Of all ranks: one may have had nothing to do.
    return {static_cast<int>(world_.all_max(original_->n_reads - original)),
            static_cast<int>(world_.all_max(quantized_->n_reads - quantized))};
  }
  std::pair<int, int> texts() {
    return reads([&](const TellResults& tell) { evaluate_texts(world_, context_, subjects_, options_, tell); });
  }
  std::pair<int, int> questions(std::vector<std::string> tasks) {
    protocol_.questions.tasks.clear();
    for (const std::string& task : tasks) protocol_.questions.tasks.push_back(folder_ + "/" + task + ".json");
    return reads([&](const TellResults& tell) { evaluate_questions(world_, context_, subjects_, protocol_, tell); });
  }
  /// Of what was told last.
  double value(const std::string& task, const std::string& metric) const {
    for (const Evaluation& evaluation : told_)
      for (const Result& result : evaluation.results)
        if (result.task == task && result.metric == metric) return result.value;
    return -1;
  }

  const comm::Communicator world_ = comm::Communicator::world();
  backend::Context context_{backend::Device::cpu, 1};
  std::optional<test::TemporaryFolder> scratch_;
  std::string folder_;
  std::shared_ptr<CountingSource> original_ = std::make_shared<CountingSource>("original", 1.0F);
  CountingSource* quantized_ = nullptr;
  std::vector<run::Subject> subjects_;
  TextOptions options_;
  QuestionProtocol protocol_;
  std::vector<Evaluation> told_;
};

constexpr std::pair<int, int> kNone{0, 0};

TEST_F(KeptEvaluations, ATextIsReadOnceWhateverIsAskedBesideIt) {
  const auto [original, quantized] = texts();
  EXPECT_GT(original, 0);
  EXPECT_GT(quantized, 0);
  const double perplexity = value("one.txt", kPerplexity);
  EXPECT_EQ(texts(), kNone);
  EXPECT_EQ(value("one.txt", kPerplexity), perplexity);
  // Another text beside it is all that is read; under another name it is the same text.
  options_.texts.push_back(folder_ + "/two.txt");
  options_.names = "W2,C4";
  EXPECT_EQ(texts(), std::pair(original, quantized));
  EXPECT_EQ(value("W2", kPerplexity), perplexity);
  if (world_.rank() == 0) {
    ASSERT_EQ(told_.size(), 2U);
    EXPECT_EQ(told_[0].results.front().protocol.at("text"), folder_ + "/one.txt");
    EXPECT_EQ(told_[0].reference.size(), 1U);
    EXPECT_EQ(told_[0].results.front().reference, told_[0].reference.front().value);
  }
  EXPECT_EQ(texts(), kNone);
}

TEST_F(KeptEvaluations, DivergencesHoldThePerplexityToo) {
  options_.divergence = true;
  EXPECT_GT(texts().second, 0);
  const double kl = value("one.txt", kDivergence);
  EXPECT_EQ(texts(), kNone);
  EXPECT_EQ(value("one.txt", kDivergence), kl);
  options_.divergence = false;
  EXPECT_EQ(texts(), kNone);
  EXPECT_EQ(value("one.txt", kDivergence), -1);
  // A run beside it, with other layers, is all that is read.
  options_.divergence = true;
  subjects_.push_back(subject("second"));
  EXPECT_GT(texts().second, 0);
  if (world_.rank() == 0) {
    EXPECT_EQ(told_.size(), 2U);
  }
}

TEST_F(KeptEvaluations, OtherLayersOrAnotherProtocolAreEvaluated) {
  texts();
  options_.windows = 4;
  EXPECT_GT(texts().second, 0);
  subjects_.clear();
  subjects_.push_back(subject("tuned since"));
  EXPECT_GT(texts().second, 0);
}

TEST_F(KeptEvaluations, ATaskIsAskedOnceWhateverIsAskedBesideIt) {
  EXPECT_GT(questions({"one"}).second, 0);
  const double accuracy = value("one", "acc");
  EXPECT_EQ(questions({"one"}), kNone);
  std::string asked;
  protocol_.doing = [&](const std::string& where) { asked = where.substr(0, where.find(" on rank 0")); };
  EXPECT_GT(questions({"one", "two"}).second, 0);
  const std::string beside = asked;
  EXPECT_EQ(value("one", "acc"), accuracy);
  EXPECT_EQ(questions({"two", "one"}), kNone);
  if (world_.rank() == 0) {
    EXPECT_GE(value("mean", "acc"), 0);
  }
  // No more tokens went through the model than for the other task alone.
  subjects_.clear();
  subjects_.push_back(subject("another"));
  questions({"two"});
  EXPECT_EQ(beside, asked);
}

}  // namespace
}  // namespace voronoi::validation
