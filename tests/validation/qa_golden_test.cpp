// Questions against lm-evaluation-harness 0.4.9 (the README of the goldens says how they were made).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "model/tokenizer.h"
#include "support/data.h"
#include "support/temporary.h"
#include "validation/qa.h"

namespace voronoi::validation {
namespace {

core::Json read_golden(const std::string& model, const std::string& variant) {
  return core::Json::parse(core::read_text_file(test::data_path("qa/goldens/" + model + "/" + variant + ".json")));
}

/// Weights rounded to float16, as those behind SmolLM2's goldens.
class RoundedSource : public model::WeightSource {
 public:
  explicit RoundedSource(const std::string& path) : source_(model::open_model(path)) {}
  const model::ModelConfig& config() const override { return source_->config(); }
  void read(const model::TensorSpec& spec, std::span<float> out) const override {
    source_->read(spec, out);
    for (float& value : out) value = core::round_to(core::DType::f16, value);
  }
  std::string fingerprint() const override { return source_->fingerprint(); }
  const std::string& path() const override { return source_->path(); }

 private:
  std::unique_ptr<model::WeightSource> source_;
};

struct Golden {
  const char* variant;
  const char* task;
  std::int64_t rows = 0;  ///< of those of stories260K that are asked; 0: all
};
// BoolQ's long passages are most of the tokens of all tasks.
constexpr Golden kGoldens[] = {
    {"arc_easy", "arc_easy"},   {"arc_challenge", "arc_challenge"}, {"piqa", "piqa"},
    {"hellaswag", "hellaswag"}, {"hellaswag_raw", "hellaswag"},     {"winogrande", "winogrande"},
    {"boolq", "boolq", 500}};

/// Number of the row behind a question, from 0: no data set has blank lines.
std::int64_t row_of(const Question& question) {
  return std::stoll(question.place.substr(question.place.rfind(' ') + 1)) - 1;
}

/// Documents that may be answered either way.
std::set<std::int64_t> near_ties(const core::Json& golden, const char* metric) {
  std::set<std::int64_t> rows;
  const core::Json& ties = golden.at("near_ties");
  if (ties.contains(metric))
    for (const core::Json& tie : ties.at(metric))
      rows.insert(tie.is_object() ? tie.at("doc").get<std::int64_t>() : tie.get<std::int64_t>());
  return rows;
}

class QaGoldens {
 public:
  QaGoldens(const model::WeightSource& source, const model::Tokenizer& tokenizer, std::string name)
      : source_(source), tokenizer_(tokenizer), name_(std::move(name)), context_(backend::Device::cpu, 2) {}

  /// limit 0: all rows of the goldens.
  void check(const Golden& which, std::int64_t limit) {
    SCOPED_TRACE(name_ + " " + which.variant);
    const core::Json golden = read_golden(name_, which.variant);
    const bool raw = std::string(which.variant) == "hellaswag_raw";
    QuestionOptions options;
    options.tasks = {which.task};
    options.directory = test::data_path("qa");
    // What the rows of the file are in the data set.
    std::map<std::int64_t, std::int64_t> document;
    test::TemporaryFolder folder;
    if (raw) {
      std::filesystem::create_directories(folder / "hellaswag");
      const std::string rows = core::read_text_file(test::data_path("qa/goldens/hellaswag_raw_rows.jsonl"));
      core::write_file_atomic(folder / "hellaswag/rows.jsonl", rows, "test");
      options.directory = folder.path();
      std::string_view rest = rows;
      for (std::int64_t i = 0; !rest.empty(); ++i)
        document[i] = core::Json::parse(take_line(rest)).at("doc").get<std::int64_t>();
    }
    const core::Json& results = golden.at("results");
    options.limit = limit > 0 || raw ? limit
                                     : results.at("documents").get<std::int64_t>() +
                                           (name_ == "stories260K" && which.task == std::string("piqa") ? 1 : 0);
    const QuestionSet questions(options, tokenizer_, source_.config());
    const std::vector<Likelihood> likelihoods = validation::likelihoods(source_, context_, comm::Communicator::alone(),
                                                                        questions.inputs(), core::DType::f32, {});
    const AskedTask& asked = questions.tasks().at(0);
    std::map<std::int64_t, std::size_t> question_of;
    for (std::size_t i = 0; i < asked.data.questions.size(); ++i) {
      const std::int64_t row = row_of(asked.data.questions[i]);
      question_of[raw ? document.at(row) : row] = i;
    }

    // Documents spelled out: ids, likelihoods, lengths.
    std::int64_t n_spelled_out = 0;
    for (const core::Json& doc : golden.at("documents")) {
      const auto found = question_of.find(doc.at("doc").get<std::int64_t>());
      if (found == question_of.end()) continue;
      ++n_spelled_out;
      const Question& question = asked.data.questions[found->second];
      EXPECT_EQ(question.gold, doc.at("gold").get<std::int64_t>());
      ASSERT_EQ(question.contexts.size(), doc.at("requests").size());
      for (std::size_t c = 0; c < question.contexts.size(); ++c) {
        const core::Json& request = doc.at("requests")[c];
        ASSERT_EQ(question.contexts[c], request.at("context").get<std::string>());
        ASSERT_EQ(question.continuations[c], request.at("continuation").get<std::string>());
        const auto context_ids = request.at("context_ids").get<std::vector<std::int32_t>>();
        const auto continuation_ids = request.at("continuation_ids").get<std::vector<std::int32_t>>();
        const std::size_t at = asked.first_request[found->second] + c;
        EXPECT_EQ(questions.inputs()[at].ids, scored_input({"", context_ids, continuation_ids},
                                                           source_.config().max_position, source_.config().vocab_size)
                                                  .ids);
        ASSERT_EQ(questions.inputs()[at].targets, continuation_ids);
        const double expected = request.at("loglikelihood").get<double>();
        EXPECT_NEAR(likelihoods[at].log_likelihood, expected, 1e-5 * std::abs(expected) + 5e-5)
            << doc.at("doc") << ", " << c;
        EXPECT_EQ(likelihoods[at].is_greedy, request.at("is_greedy").get<bool>()) << doc.at("doc") << ", " << c;
        if (request.contains("norm_length")) {
          EXPECT_EQ(question.lengths[c], request.at("norm_length").get<std::int64_t>());
        }
      }
    }
    EXPECT_GE(n_spelled_out, limit > 0 ? std::min<std::int64_t>(limit, 25) : 25);

    // Predictions of all.
    const core::Json& predictions = golden.at("predictions");
    std::vector<std::int64_t> docs;
    if (predictions.at("docs").is_array()) docs = predictions.at("docs").get<std::vector<std::int64_t>>();
    std::int64_t n_compared = 0;
    for (const auto& [metric, key] : std::map<const char*, const char*>{{"acc", "pred"}, {"acc_norm", "pred_norm"}}) {
      if (!predictions.contains(key)) continue;
      const std::set<std::int64_t> either = near_ties(golden, metric);
      for (std::size_t i = 0; i < predictions.at(key).size(); ++i) {
        const std::int64_t doc = docs.empty() ? static_cast<std::int64_t>(i) : docs[i];
        const auto found = question_of.find(doc);
        if (found == question_of.end() || either.contains(doc)) continue;
        ++n_compared;
        const Question& question = asked.data.questions[found->second];
        const auto mine = std::span(likelihoods).subspan(asked.first_request[found->second], question.contexts.size());
        EXPECT_EQ(best_choice(mine, std::string(key) == "pred" ? std::span<const std::int64_t>() : question.lengths),
                  predictions.at(key)[i].get<std::int64_t>())
            << metric << " of document " << doc;
      }
    }
    EXPECT_GE(n_compared, std::ssize(question_of) - 1);

    if (limit > 0 || raw) return;
    for (const Result& result : questions.results(likelihoods, core::DType::f32)) {
      const std::set<std::int64_t> either = near_ties(golden, result.metric.c_str());
      const double error = static_cast<double>(either.size()) / static_cast<double>(result.n) + 1e-12;
      EXPECT_EQ(result.n, results.at("documents").get<std::int64_t>());
      EXPECT_NEAR(result.value, results.at(result.metric).get<double>(), error);
      EXPECT_NEAR(result.standard_error.value(), results.at(result.metric + "_stderr").get<double>(), error);
    }
  }

 private:
  const model::WeightSource& source_;
  const model::Tokenizer& tokenizer_;
  const std::string name_;
  backend::Context context_;
};

TEST(QaGolden, AnswersOfStories260K) {
  VORONOI_NEEDS_DATA("qa/goldens");
  const auto source = model::open_model(test::data_path("models/stories260K/hf"));
  const auto tokenizer = model::open_tokenizer(test::data_path("models/stories260K/tok512.model"));
  QaGoldens goldens(*source, *tokenizer, "stories260K");
  for (const Golden& golden : kGoldens) goldens.check(golden, golden.rows);
}

TEST(QaGolden, DocumentsOfSmolLm2) {
  VORONOI_NEEDS_DATA("qa/goldens");
  const char* path = std::getenv("VORONOI_SMOLLM2_GGUF");
  if (path == nullptr) VORONOI_SKIP_MISSING("VORONOI_SMOLLM2_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf");
  const RoundedSource source(path);
  const auto tokenizer = model::open_tokenizer(path);
  QaGoldens goldens(source, *tokenizer, "SmolLM2-135M-Instruct");
  for (const Golden& golden : kGoldens) goldens.check(golden, 8);  // a minute has room for no more
}

}  // namespace
}  // namespace voronoi::validation
