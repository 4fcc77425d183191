// A task file, rows of its data set and their labels; and a file of requests.
#include <vector>

#include "fuzz/fuzz.h"
#include "model/unicode.h"
#include "validation/requests_file.h"
#include "validation/task.h"

namespace voronoi::fuzz {
namespace {

void check_rows(const validation::Task& task, std::string_view lines, std::string_view labels) {
  validation::TaskData data;
  data.file = "rows.jsonl";
  accepts([&] { validation::read_rows(task, lines, labels, 50, 2, data); });
  for (const std::string& fault : data.faults) check_message(fault);
  require(data.left_out + static_cast<std::int64_t>(data.questions.size()) == data.n_rows, "rows that are not counted");
  for (const validation::Question& question : data.questions) {
    const std::size_t n = question.contexts.size();
    require(n > 0 && question.continuations.size() == n && question.lengths.size() == n, "choices of a question");
    require(question.gold >= 0 && question.gold < static_cast<std::int64_t>(n), "the right choice");
    for (std::size_t i = 0; i < n; ++i)
      require(model::is_valid_utf8(question.contexts[i]) && model::is_valid_utf8(question.continuations[i]),
              "texts that are not UTF-8");
  }
}

const std::vector<validation::Task>& built_in() {
  static const std::vector<validation::Task> tasks = [] {
    std::vector<validation::Task> all;
    for (const std::string& name : validation::built_in_tasks()) all.push_back(validation::open_task(name));
    return all;
  }();
  return tasks;
}

/// A task file ended by a zero byte, labels likewise, then rows.
void run(std::string_view input) {
  accepts([&] { static_cast<void>(validation::parse_requests(input, "requests.jsonl")); });
  const std::string_view file = take_text(input), labels = take_text(input);
  for (const validation::Task& task : built_in()) check_rows(task, input, labels);
  accepts([&] { check_rows(validation::Task(core::parse_json(file, "task.json"), "task.json"), input, labels); });
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::quiet();
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}
