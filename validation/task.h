// Tasks of questions, as data: a file says how a row of a data set becomes contexts and continuations to be scored.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "validation/text_filter.h"

namespace voronoi::validation {

/// One row as it is asked: by choice; a task without choices has one.
struct Question {
  std::string place;  ///< "FILE: line 7"
  std::vector<std::string> contexts, continuations;
  std::vector<std::int64_t> lengths;  ///< of the choices, in characters: what acc_norm divides by
  std::int64_t gold = 0;
};

enum class TaskMetric {
  acc,        ///< the most likely choice is the right one; without choices: the continuation is the model's own
  acc_norm,   ///< the same by log-likelihood over length
  perplexity  ///< exp of the mean negative log-likelihood of the continuations, without choices
};
std::string_view task_metric_name(TaskMetric metric);

/// What a task file holds, see docs/user-guide.md:
///   task          its name
///   data          "FOLDER/PATTERN" of JSON lines below --task-data; one * in the pattern
///   labels        likewise, a file with a label a line: each row's field "label"
///   filters       {name: steps}, see TextFilter
///   fields        {name: template}: fields of rows that have none of that name
///   context       template
///   choices       [templates], or "{field}" of an array of texts; may be absent
///   continuation  template, "{choice}" unless given
///   delimiter     between context and continuation, " " unless given
///   gold          {"field": f}: the number of the right choice, or its place "among": a field that is an array, or
///                 among the "values": [..]
///   metrics       [names]
/// context and continuation may name {choice}; where the context does, the choices are compared by what follows them.
class Task {
 public:
  /// Throws FormatError naming `file` and the key at fault.
  Task(const core::Json& json, const std::string& file);

  const std::string& name() const { return name_; }
  const std::string& data() const { return data_; }
  const std::optional<std::string>& labels() const { return labels_; }
  const std::vector<TaskMetric>& metrics() const { return metrics_; }
  bool has_choices() const { return each_choice_.has_value() || !choices_.empty(); }

  /// Throws FormatError naming `place` where the row lacks a field, has no choices, or names a right one beyond them.
  Question question(core::Json row, const std::string& place) const;

 private:
  std::int64_t gold_of(const core::Json& row, const std::string& place) const;

  std::string name_, data_;
  std::optional<std::string> labels_;
  std::vector<std::pair<std::string, TextTemplate>> fields_;
  std::optional<TextTemplate> context_, continuation_, each_choice_;
  std::vector<TextTemplate> choices_;
  std::string delimiter_ = " ", gold_field_;
  std::optional<std::string> gold_among_;
  std::optional<core::Json> gold_values_;
  std::vector<TaskMetric> metrics_;
};

/// The tasks that are part of the program.
std::vector<std::string> built_in_tasks();
/// By name, else a task file. Throws ConfigError / FormatError / StoreError.
Task open_task(const std::string& name_or_file);

/// The rows of a task that are asked.
struct TaskData {
  std::string file, sha256;  ///< of the JSON lines and, where there are such, labels: sha256 of both in turn
  std::vector<Question> questions;
  std::vector<Question> shots;      ///< of the first rows that can be asked, one more than are put before a question
  std::int64_t n_rows = 0;          ///< rows that were to be asked: the file's, or its first `limit`
  std::int64_t left_out = 0;        ///< of them those at fault
  std::vector<std::string> faults;  ///< of the first of those, with file and line
};

/// Faults of a data file that are told one by one.
inline constexpr std::size_t kToldFaults = 10;

/// limit 0: all rows. Throws FormatError where no row is left, or less than n_shots + 1 when n_shots > 0; ConfigError
/// where there is no data file, or several match.
TaskData read_task_data(const Task& task, const std::filesystem::path& directory, std::int64_t limit,
                        std::int64_t n_shots);

/// Rows of JSON lines and labels as questions: the part of read_task_data() behind the files' bytes.
void read_rows(const Task& task, std::string_view lines, std::string_view labels, std::int64_t limit,
               std::int64_t n_shots, TaskData& data);

}  // namespace voronoi::validation
