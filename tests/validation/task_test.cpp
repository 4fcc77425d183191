// Task files and rows of data sets, good and hostile.
#include "validation/task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "support/temporary.h"

namespace voronoi::validation {
namespace {

using testing::ElementsAre, testing::HasSubstr, testing::ThrowsMessage;

Question ask(const std::string& task, const char* row) {
  return open_task(task).question(core::Json::parse(row), "rows: line 3");
}

TEST(BuiltInTasks, AskAsTheHarnessDoes) {
  EXPECT_THAT(built_in_tasks(),
              testing::UnorderedElementsAre("arc_challenge", "arc_easy", "boolq", "hellaswag", "piqa", "winogrande"));
  Question q =
      ask("arc_easy",
          R"({"question": "Why?", "choices": {"text": ["So", "Thus\u00e9"], "label": ["1", "2"]}, "answerKey": "2"})");
  EXPECT_THAT(q.contexts, ElementsAre("Question: Why?\nAnswer:", "Question: Why?\nAnswer:"));
  EXPECT_THAT(q.continuations, ElementsAre(" So", " Thus\xC3\xA9"));
  EXPECT_THAT(q.lengths, ElementsAre(2, 5));
  EXPECT_EQ(q.gold, 1);
  q = ask("boolq", R"({"passage": "P", "question": "is it", "answer": false})");
  EXPECT_EQ(q.contexts[0], "P\nQuestion: is it?\nAnswer:");
  EXPECT_THAT(q.continuations, ElementsAre(" no", " yes"));
  EXPECT_EQ(q.gold, 0);
  q = ask("winogrande", R"({"sentence": "A hit B, so _  fell. ", "option1": "A", "option2": "B", "answer": "2"})");
  EXPECT_THAT(q.contexts, ElementsAre("A hit B, so A", "A hit B, so B"));
  EXPECT_THAT(q.continuations, ElementsAre(" fell.", " fell."));
  EXPECT_EQ(q.gold, 1);
  q = ask("piqa", R"({"goal": "g", "sol1": " a ", "sol2": "b", "label": "1"})");
  EXPECT_THAT(q.continuations, ElementsAre("  a ", " b"));
  EXPECT_EQ(q.gold, 1);
}

TEST(BuiltInTasks, HellaSwagTakesTheSetsOwnFieldsAndAPreparedQuery) {
  const Question raw =
      ask("hellaswag", R"({"activity_label": "Roof", "ctx_a": "[header] How [title] Do.", "ctx_b": "the Man",
                                           "endings": ["[step] Use  soap", "run."], "label": "1"})");
  EXPECT_EQ(raw.contexts[0], "Roof: How. Do. The man");
  EXPECT_THAT(raw.continuations, ElementsAre("  Use soap", " run."));
  EXPECT_THAT(raw.lengths, ElementsAre(9, 4));
  const Question prepared =
      ask("hellaswag", R"({"query": "Roof: A man. he ", "endings": ["a", "b", "c"], "label": 2})");
  EXPECT_EQ(prepared.contexts[0], "Roof: A man. he");
  EXPECT_EQ(prepared.gold, 2);
}

TEST(Tasks, RowsAtFaultAreNamed) {
  const char* good = R"({"query": "q", "endings": ["a", "b"], "label": 1})";
  EXPECT_NO_THROW(ask("hellaswag", good));
  for (const auto& [row, what] : std::vector<std::pair<const char*, const char*>>{
           {R"([1])", "no JSON object"},
           {R"({"endings": ["a"], "label": 0})", "\"activity_label\""},
           {R"({"query": "q", "endings": [], "label": 0})", "no choices"},
           {R"({"query": "q", "endings": ["a", ""], "label": 0})", "choice 1 is empty"},
           {R"({"query": "q", "endings": ["a", null], "label": 0})", "\"endings\""},
           {R"({"query": "q", "endings": "a", "label": 0})", "no array"},
           {R"({"query": "q", "endings": ["a", "b"], "label": 2})", "there are 2 choices"},
           {R"({"query": "q", "endings": ["a", "b"], "label": -1})", "is -1"},
           {R"({"query": "q", "endings": ["a", "b"], "label": "one"})", "no number of a choice"},
           {R"({"query": "q", "endings": ["a", "b"], "label": 1.0})", "no number of a choice"},
           {R"({"query": "q", "endings": ["a", "b"], "label": 99999999999999999999})", "no number of a choice"},
           {R"({"query": "q", "endings": ["a", "b"]})", "\"label\""}})
    EXPECT_THAT(([r = row] { ask("hellaswag", r); }),
                ThrowsMessage<core::FormatError>(testing::AllOf(HasSubstr("rows: line 3"), HasSubstr(what))))
        << row;
  EXPECT_THAT(
      [] { ask("arc_easy", R"({"question": "", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "E"})"); },
      ThrowsMessage<core::FormatError>(HasSubstr("is \"E\", which is not among")));
  EXPECT_THAT([] { ask("winogrande", R"({"sentence": "no blank", "option1": "a", "option2": "b", "answer": "1"})"); },
              ThrowsMessage<core::FormatError>(HasSubstr("\"_\"")));
}

TEST(Tasks, FilesAtFaultAreNamed) {
  const core::Json good =
      core::Json::parse(R"({"task": "t", "data": "t/*.jsonl", "context": "{q}", "choices": ["a", "b"],
                                               "gold": {"field": "label"}, "metrics": ["acc"]})");
  EXPECT_EQ(Task(good, "t.json").name(), "t");
  const auto with = [&](const char* key, const core::Json& value) {
    core::Json changed = good;
    if (value.is_discarded())
      changed.erase(key);
    else
      changed[key] = value;
    return changed;
  };
  const core::Json none(core::Json::value_t::discarded);
  for (const core::Json& wrong : {core::Json(3),
                                  with("extra", 1),
                                  with("task", ""),
                                  with("data", none),
                                  with("data", "/etc/passwd"),
                                  with("data", "../a"),
                                  with("data", "*/a"),
                                  with("data", "t/"),
                                  with("context", none),
                                  with("context", "{q"),
                                  with("choices", core::Json::array()),
                                  with("choices", "{a} {b}"),
                                  with("choices", {1}),
                                  with("choices", none),
                                  with("gold", none),
                                  with("gold", {{"field", "a"}, {"values", 3}}),
                                  with("gold", {{"field", "a"}, {"other", 3}}),
                                  with("metrics", core::Json::array()),
                                  with("metrics", {"acc", "acc"}),
                                  with("metrics", {"f1"}),
                                  with("metrics", {"perplexity"}),
                                  with("filters", {{"f", {"other"}}}),
                                  with("fields", {{"f", 3}}),
                                  with("delimiter", 1)})
    EXPECT_THAT([&] { Task(wrong, "t.json"); }, ThrowsMessage<core::FormatError>(HasSubstr("t.json: "))) << wrong;
  EXPECT_THAT([] { open_task("arc"); }, ThrowsMessage<core::ConfigError>(HasSubstr("arc_easy")));
  EXPECT_THROW(open_task("nowhere/t.json"), core::StoreError);
}

class TaskRows : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_ / "t"); }
  void write(const std::string& name, const std::string& content) {
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }
  TaskData read(std::int64_t limit = 0, std::int64_t shots = 0) { return read_task_data(task_, folder_, limit, shots); }

  test::TemporaryFolder temporary_;
  std::filesystem::path folder_ = temporary_.path();
  Task task_{core::Json::parse(
                 R"({"task": "t", "data": "t/*.jsonl", "labels": "t/*.lst", "context": "{q}", "choices": ["a", "b"],
                                  "gold": {"field": "label"}, "metrics": ["acc"]})"),
             "t.json"};
};

TEST_F(TaskRows, ThoseAtFaultAreLeftOutAndCounted) {
  write(
      "t/rows.jsonl",
      "{\"q\": \"1\"}\r\n\n{\"q\": 2}\n{\"q\": \"\xFF\"}\n{\"p\": 4}\n{\"q\": \"5\"}\n{\"q\": \"6\"}\n{\"q\": \"7\"}");
  write("t/rows.lst", "0\r\n1\n0\n0\n2\n1\n");
  const TaskData data = read();
  EXPECT_EQ(data.n_rows, 7);
  EXPECT_EQ(data.left_out, 4);
  ASSERT_EQ(data.questions.size(), 3);
  EXPECT_THAT(data.questions[2].place, HasSubstr("rows.jsonl: line 7"));
  ASSERT_EQ(data.faults.size(), 4);
  EXPECT_THAT(data.faults[0], HasSubstr("rows.jsonl: line 4"));
  EXPECT_THAT(data.faults[1], testing::AllOf(HasSubstr("line 5"), HasSubstr("\"q\"")));
  EXPECT_THAT(data.faults[2], testing::AllOf(HasSubstr("line 6"), HasSubstr("2 choices")));
  EXPECT_THAT(data.faults[3], testing::AllOf(HasSubstr("line 8"), HasSubstr("file of labels")));
  write("t/rows.lst", "0\n1\n0\n0\n2\n1\n\xFF\n");
  EXPECT_THAT(read().faults.back(), testing::AllOf(HasSubstr("line 8"), HasSubstr("no UTF-8")));
  // The first rows, those at fault among them; shots may lie behind.
  const TaskData limited = read(3, 2);
  EXPECT_EQ(limited.n_rows, 3);
  EXPECT_EQ(limited.left_out, 1);
  EXPECT_EQ(limited.questions.size(), 2);
  EXPECT_EQ(limited.shots.size(), 3);
  EXPECT_THROW(read(3, 3), core::FormatError);
}

TEST_F(TaskRows, WithoutARowOrAFileThereIsNothingToAsk) {
  EXPECT_THAT([&] { read(); }, ThrowsMessage<core::ConfigError>(HasSubstr("t/*.jsonl")));
  write("t/rows.jsonl", "{}\n");
  write("t/rows.lst", "0\n");
  EXPECT_THAT([&] { read(); }, ThrowsMessage<core::FormatError>(HasSubstr("no row that the task t can ask")));
  write("t/rows.jsonl", "");
  EXPECT_THROW(read(), core::FormatError);
  write("t/other.jsonl", "{}\n");
  EXPECT_THAT([&] { read(); }, ThrowsMessage<core::ConfigError>(HasSubstr("other.jsonl, rows.jsonl")));
}

TEST(Tasks, WithoutChoicesScoreOneContinuation) {
  const Task task(
      core::Json::parse(R"({"task": "last", "data": "l/*.jsonl", "context": "{text}", "continuation": "{word}",
                                       "delimiter": "", "metrics": ["acc", "perplexity"]})"),
      "last.json");
  EXPECT_FALSE(task.has_choices());
  const Question question = task.question(core::Json::parse(R"({"text": "Once upon a", "word": " time"})"), "p");
  EXPECT_THAT(question.continuations, ElementsAre(" time"));
}

}  // namespace
}  // namespace voronoi::validation
