// From rows of a data set to figures: choices, means, errors, examples before a question, what is left out.
#include "validation/qa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "core/error.h"
#include "support/byte_tokenizer.h"
#include "support/temporary.h"

namespace voronoi::validation {
namespace {

using testing::HasSubstr, testing::ThrowsMessage;

std::vector<Likelihood> choices(const std::vector<double>& values) {
  std::vector<Likelihood> result;
  for (const double value : values) result.push_back({value, false});
  return result;
}

TEST(Choices, TheFirstOfEqualOnesIsBest) {
  EXPECT_EQ(best_choice(choices({-3, -1, -1, -2}), {}), 1);
  EXPECT_EQ(best_choice(choices({-1}), {}), 0);
  const std::vector<std::int64_t> lengths{30, 5, 10};
  EXPECT_EQ(best_choice(choices({-3, -1, -1}), lengths), 0);
  EXPECT_EQ(best_choice(choices({-6, -1, -2}), lengths), 0);  // all alike
}

TEST(StandardErrors, AreThoseOfASample) {
  EXPECT_NEAR(standard_error(std::vector<double>{1, 0, 0, 1, 1}).value(), std::sqrt(0.3 / 5), 1e-15);
  EXPECT_FALSE(standard_error(std::vector<double>{1}).has_value());
  EXPECT_EQ(standard_error(std::vector<double>{1, 1, 1}).value(), 0);
}

class QuestionSets : public ::testing::Test {
 protected:
  void SetUp() override {
    config_.model_type = "llama";
    config_.vocab_size = 256;
    config_.max_position = 40;
    for (const char* folder : {"boolq", "arc_easy", "w"}) std::filesystem::create_directories(folder_ / folder);
    write("boolq/rows.jsonl", R"({"passage": "aa", "question": "b", "answer": true}
{"passage": "cc", "question": "d", "answer": false}
{"passage": "an overlong one that is cut from the left, and some more of it", "question": "e", "answer": false}
{"passage": "f", "question": "g"}
{"passage": "h", "question": "i", "answer": true}
)");
    write("arc_easy/rows.jsonl",
          R"({"question": "q", "choices": {"text": ["one", "four"], "label": ["A", "B"]}, "answerKey": "A"}
{"question": "q", "choices": {"text": ["an answer that is longer than all that fits", "x"], "label": ["A", "B"]}, "answerKey": "A"}
)");
  }
  void write(const std::string& name, const std::string& content) { std::ofstream(folder_ / name) << content; }
  QuestionSet set(std::vector<std::string> tasks, std::int64_t limit = 0, std::int64_t shots = 0) {
    QuestionOptions options;
    options.tasks = std::move(tasks);
    options.directory = folder_.path();
    options.limit = limit;
    options.shots = shots;
    return {options, test::byte_tokenizer(), config_};
  }
  static std::string text(const ScoredInput& input) { return test::byte_tokenizer().decode(input.ids); }

  test::TemporaryFolder folder_;
  model::ModelConfig config_;
};

TEST_F(QuestionSets, BecomeFiguresWithTheirProtocol) {
  const QuestionSet questions = set({"boolq", "arc_easy"});
  ASSERT_EQ(questions.inputs().size(), 10);
  EXPECT_EQ(text(questions.inputs()[1]), "aa\nQuestion: b?\nAnswer: ye");
  EXPECT_EQ(questions.tasks()[0].data.left_out, 1);
  EXPECT_EQ(questions.tasks()[0].n_truncated, 2);
  EXPECT_EQ(questions.tasks()[1].data.left_out, 1);
  EXPECT_THAT(questions.tasks()[1].data.faults.at(0),
              testing::AllOf(HasSubstr("rows.jsonl: line 2"), HasSubstr("44 tokens, more than the 40")));
  // Right, right, wrong, right; by length the second.
  const std::vector<Result> results =
      questions.results(choices({-2, -1, -1, -2, -2, -1, -3, -1, -3, -3.5}), core::DType::f32);
  ASSERT_EQ(results.size(), 5);
  EXPECT_EQ(results[0].task + " " + results[0].metric, "boolq acc");
  EXPECT_EQ(results[0].value, 0.75);
  EXPECT_EQ(results[0].n, 4);
  EXPECT_NEAR(results[0].standard_error.value(), 0.25, 1e-15);
  EXPECT_EQ(results[0].protocol.dump(), core::Json({{"data", (folder_ / "boolq/rows.jsonl").string()},
                                                    {"data_sha256", questions.tasks()[0].data.sha256},
                                                    {"limit", nullptr},
                                                    {"shots", 0},
                                                    {"bos", "none"},
                                                    {"max_length", 40},
                                                    {"dtype", "float32"},
                                                    {"left_out", 1},
                                                    {"truncated", 2}})
                                            .dump());
  EXPECT_EQ(results[1].value, 1);
  EXPECT_EQ(results[1].standard_error, std::nullopt);
  EXPECT_EQ(results[2].metric, "acc_norm");
  EXPECT_EQ(results[2].value, 0);
  EXPECT_EQ(results[3].task + " " + results[3].metric, "mean acc");
  EXPECT_EQ(results[3].value, 0.875);
  EXPECT_EQ(results[4].task + " " + results[4].metric, "mean acc_norm");
  EXPECT_EQ(results[4].value, 0.375);
  EXPECT_EQ(results[4].n, 5);
  EXPECT_EQ(results[4].standard_error, std::nullopt);
}

TEST_F(QuestionSets, LimitTakesTheFirstRowsAndShotsTheFirstOthers) {
  config_.max_position = 400;
  const QuestionSet questions = set({"boolq"}, 2, 2);
  ASSERT_EQ(questions.inputs().size(), 4);
  const std::string first = "aa\nQuestion: b?\nAnswer: yes\n\n", second = "cc\nQuestion: d?\nAnswer: no\n\n",
                    third =
                        "an overlong one that is cut from the left, and some more of it\nQuestion: e?\nAnswer: no\n\n";
  EXPECT_EQ(text(questions.inputs()[0]), second + third + "aa\nQuestion: b?\nAnswer: n");
  EXPECT_EQ(text(questions.inputs()[2]), first + third + "cc\nQuestion: d?\nAnswer: n");
  EXPECT_EQ(questions.results(choices({-1, -2, -1, -2}), core::DType::bf16)[0].protocol.at("dtype"), "bfloat16");
}

TEST_F(QuestionSets, WithoutChoicesTheModelsOwnWordCounts) {
  write("w/rows.jsonl", "{\"text\": \"a\", \"word\": \"bc\"}\n{\"text\": \"a\", \"word\": \"d\"}\n");
  write("w.json", R"({"task": "w", "data": "w/*.jsonl", "context": "{text}", "continuation": "{word}",
                      "metrics": ["acc", "perplexity"]})");
  const QuestionSet questions = set({(folder_ / "w.json").string()});
  std::vector<Likelihood> likelihoods = choices({-2, -4});
  likelihoods[1].is_greedy = true;
  const std::vector<Result> results = questions.results(likelihoods, core::DType::f32);
  EXPECT_EQ(results.at(0).value, 0.5);
  EXPECT_DOUBLE_EQ(results.at(1).value, std::exp(3.0));
  EXPECT_DOUBLE_EQ(results.at(1).standard_error.value(), std::exp(3.0));
}

TEST_F(QuestionSets, WhatCannotBeAskedIsAnError) {
  EXPECT_THAT([&] { set({"boolq", "boolq"}); }, ThrowsMessage<core::ConfigError>(HasSubstr("boolq is there twice")));
  EXPECT_THAT([&] { set({"boolq", "piqa"}); }, ThrowsMessage<core::ConfigError>(HasSubstr("piqa/*.jsonl")));
  config_.max_position = 1;
  EXPECT_THAT([&] { set({"boolq"}); }, ThrowsMessage<core::FormatError>(HasSubstr("of this model")));
}

TEST_F(QuestionSets, KeysTellWhatDecidesTheAnswers) {
  const QuestionSet all = set({"boolq"}), one = set({"boolq"}, 1);
  const auto key = [](const QuestionSet& questions, const std::string& content, core::DType dtype) {
    return likelihood_key(content, questions.inputs(), dtype, backend::Device::cpu);
  };
  const std::string same = key(all, "c", core::DType::f32);
  EXPECT_EQ(key(set({"boolq"}), "c", core::DType::f32), same);
  EXPECT_NE(key(one, "c", core::DType::f32), same);
  EXPECT_NE(key(all, "d", core::DType::f32), same);
  EXPECT_NE(key(all, "c", core::DType::bf16), same);
}

}  // namespace
}  // namespace voronoi::validation
