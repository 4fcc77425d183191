#include "validation/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "model/unicode.h"
#include "validation/built_in_tasks.h"

namespace voronoi::validation {
namespace {

using core::FormatError;

constexpr std::size_t kMaxTaskBytes = std::size_t{1} << 20;

constexpr std::array<std::string_view, 3> kMetricNames{"acc", "acc_norm", "perplexity"};

std::string text_at(const core::Json& json, const char* key, const std::string& file) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_string() || found->get_ref<const std::string&>().empty())
    throw FormatError(file, fmt::format("its \"{}\" is missing or no text", key));
  return found->get<std::string>();
}

/// "FOLDER/PATTERN" below --task-data: no way out of it, a * in the last part alone.
void check_pattern(const std::string& pattern, const std::string& file) {
  const std::filesystem::path path(pattern);
  const bool inside =
      path.is_relative() && std::none_of(path.begin(), path.end(), [](const auto& part) { return part == ".."; });
  const std::string folder = path.parent_path().string(), name = path.filename().string();
  if (!inside || name.empty() || folder.find('*') != std::string::npos || std::count(name.begin(), name.end(), '*') > 1)
    throw FormatError(file, core::quote_text(pattern) + " is no \"FOLDER/PATTERN\" with at most one * in the pattern");
}

bool matches(const std::string& name, const std::string& pattern) {
  const std::size_t star = pattern.find('*');
  if (star == std::string::npos) return name == pattern;
  const std::string_view head = std::string_view(pattern).substr(0, star),
                         tail = std::string_view(pattern).substr(star + 1);
  return name.size() >= head.size() + tail.size() && name.starts_with(head) && name.ends_with(tail);
}

std::filesystem::path find_data_file(const std::filesystem::path& directory, const std::string& pattern,
                                     const std::string& task) {
  const std::filesystem::path below(pattern), folder = directory / below.parent_path();
  std::vector<std::filesystem::path> found;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    if (matches(entry->path().filename().string(), below.filename().string())) found.push_back(entry->path());
  if (found.size() == 1) return found.front();
  std::sort(found.begin(), found.end());
  if (found.empty())
    throw core::ConfigError(fmt::format("--task-data: the task {} needs a file {}, and there is none in {}", task,
                                        pattern, directory.string()));
  throw core::ConfigError(fmt::format("--task-data: the task {} needs one file {}, and there are {}: {}, {}", task,
                                      pattern, found.size(), found[0].filename().string(),
                                      found[1].filename().string()));
}

}  // namespace

std::string_view task_metric_name(TaskMetric metric) { return kMetricNames.at(static_cast<std::size_t>(metric)); }

Task::Task(const core::Json& json, const std::string& file) {
  static const std::set<std::string_view> kKeys{"task",    "data",         "labels",    "filters", "fields", "context",
                                                "choices", "continuation", "delimiter", "gold",    "metrics"};
  if (!json.is_object()) throw FormatError(file, "holds no object of a task");
  for (const auto& [key, value] : json.items())
    if (!kKeys.contains(key)) throw FormatError(file, "has the unknown key " + core::quote_text(key));
  name_ = text_at(json, "task", file);
  data_ = text_at(json, "data", file);
  check_pattern(data_, file);
  if (json.contains("labels")) {
    labels_ = text_at(json, "labels", file);
    check_pattern(*labels_, file);
  }
  TextFilters filters;
  if (const auto given = json.find("filters"); given != json.end()) {
    if (!given->is_object()) throw FormatError(file, "its \"filters\" are no object");
    for (const auto& [name, steps] : given->items()) filters.emplace(name, TextFilter(steps, file));
  }
  if (const auto given = json.find("fields"); given != json.end()) {
    if (!given->is_object()) throw FormatError(file, "its \"fields\" are no object");
    for (const auto& [name, text] : given->items()) {
      if (!text.is_string()) throw FormatError(file, "the field " + core::quote_text(name) + " is no template");
      fields_.emplace_back(name, TextTemplate(text.get<std::string>(), filters, file));
    }
  }
  context_.emplace(text_at(json, "context", file), filters, file);
  if (const auto choices = json.find("choices"); choices != json.end()) {
    if (choices->is_string()) {
      each_choice_.emplace(choices->get<std::string>(), filters, file);
      if (!each_choice_->is_one_place())
        throw FormatError(file, "its \"choices\" are neither a list of templates nor \"{field}\" alone");
    } else if (choices->is_array() && !choices->empty()) {
      for (const core::Json& choice : *choices) {
        if (!choice.is_string()) throw FormatError(file, "its \"choices\" are no templates");
        choices_.emplace_back(choice.get<std::string>(), filters, file);
      }
    } else {
      throw FormatError(file, "its \"choices\" are neither a list of templates nor \"{field}\" alone");
    }
  }
  if (!has_choices() && !json.contains("continuation"))
    throw FormatError(file, "has neither \"choices\" nor a \"continuation\"");
  continuation_.emplace(json.contains("continuation") ? text_at(json, "continuation", file) : "{choice}", filters,
                        file);
  if (const auto delimiter = json.find("delimiter"); delimiter != json.end()) {
    if (!delimiter->is_string()) throw FormatError(file, "its \"delimiter\" is no text");
    delimiter_ = delimiter->get<std::string>();
  }
  if (has_choices()) {
    const auto gold = json.find("gold");
    if (gold == json.end() || !gold->is_object())
      throw FormatError(file, "has no \"gold\", which says where a row names the right choice");
    for (const auto& [key, value] : gold->items())
      if (key != "field" && key != "among" && key != "values")
        throw FormatError(file, "its \"gold\" has the unknown key " + core::quote_text(key));
    gold_field_ = text_at(*gold, "field", file);
    if (gold->contains("among")) gold_among_ = text_at(*gold, "among", file);
    if (gold->contains("values")) {
      gold_values_ = gold->at("values");
      if (!gold_values_->is_array() || gold_among_)
        throw FormatError(file, "its \"gold\" is among a field's values or among those listed, not both");
    }
  } else if (json.contains("gold")) {
    throw FormatError(file, "has a \"gold\" but no \"choices\"");
  }
  const auto metrics = json.find("metrics");
  if (metrics == json.end() || !metrics->is_array() || metrics->empty())
    throw FormatError(file, "has no list of \"metrics\"");
  for (const core::Json& metric : *metrics) {
    const auto name =
        std::find_if(kMetricNames.begin(), kMetricNames.end(), [&](std::string_view n) { return metric == n; });
    const auto kind = static_cast<TaskMetric>(name - kMetricNames.begin());
    const bool fits = has_choices() ? kind != TaskMetric::perplexity : kind != TaskMetric::acc_norm;
    if (name == kMetricNames.end() || !fits || std::count(metrics_.begin(), metrics_.end(), kind) > 0)
      throw FormatError(file,
                        fmt::format("the metric {} is none of {}, or is there twice", core::quote_text(metric.dump()),
                                    has_choices() ? "acc, acc_norm" : "acc, perplexity"));
    metrics_.push_back(kind);
  }
}

std::int64_t Task::gold_of(const core::Json& row, const std::string& place) const {
  const core::Json& value = field_of(row, gold_field_, place);
  const auto place_in = [&](const core::Json& list, const std::string& where) {
    const auto found = std::find(list.begin(), list.end(), value);
    if (!list.is_array() || found == list.end())
      throw FormatError(place, fmt::format("its {} is {}, which is not among {}", core::quote_text(gold_field_),
                                           value.dump(), where));
    return static_cast<std::int64_t>(found - list.begin());
  };
  if (gold_among_) return place_in(field_of(row, *gold_among_, place), "its field " + core::quote_text(*gold_among_));
  if (gold_values_) return place_in(*gold_values_, gold_values_->dump());
  if (value.is_number_integer()) return core::whole_number(value);
  if (value.is_string()) {
    const std::string& digits = value.get_ref<const std::string&>();
    if (!digits.empty() && digits.size() <= 9 && digits.find_first_not_of("0123456789") == std::string::npos)
      return std::stoll(digits);
  }
  throw FormatError(
      place, fmt::format("its {} is {}, which is no number of a choice", core::quote_text(gold_field_), value.dump()));
}

Question Task::question(core::Json row, const std::string& place) const {
  if (!row.is_object()) throw FormatError(place, "is no JSON object");
  for (const auto& field : fields_)
    if (!row.contains(field.first)) row[field.first] = field.second.fill(row, {}, place);
  Question question;
  question.place = place;
  std::vector<std::string> choices;
  if (each_choice_) choices = each_choice_->fill_each(row, place);
  for (const TextTemplate& choice : choices_) choices.push_back(choice.fill(row, {}, place));
  if (!has_choices()) choices.emplace_back();
  if (choices.empty()) throw FormatError(place, "has no choices");
  for (std::size_t i = 0; i < choices.size(); ++i) {
    ExtraFields extra;
    if (has_choices()) {
      if (choices[i].empty()) throw FormatError(place, fmt::format("its choice {} is empty", i));
      extra["choice"] = choices[i];
    }
    question.contexts.push_back(context_->fill(row, extra, place));
    question.continuations.push_back(delimiter_ + continuation_->fill(row, extra, place));
    question.lengths.push_back(count_characters(choices[i]));
  }
  if (has_choices()) question.gold = gold_of(row, place);
  if (question.gold < 0 || question.gold >= std::ssize(choices))
    throw FormatError(place, fmt::format("its {} is {}, and there are {} choices", core::quote_text(gold_field_),
                                         question.gold, choices.size()));
  return question;
}

std::vector<std::string> built_in_tasks() {
  std::vector<std::string> names;
  for (const BuiltInTask& task : built_in_task_files()) names.emplace_back(task.name);
  return names;
}

Task open_task(const std::string& name_or_file) {
  for (const BuiltInTask& task : built_in_task_files())
    if (task.name == name_or_file) return Task(core::parse_json(task.json, name_or_file), name_or_file);
  if (!name_or_file.ends_with(".json"))
    throw core::ConfigError(fmt::format("--tasks: {} is none of {}, and no task file (.json)",
                                        core::quote_text(name_or_file), fmt::join(built_in_tasks(), ", ")));
  return Task(core::parse_json(core::read_text_file(name_or_file, kMaxTaskBytes), name_or_file), name_or_file);
}

void read_rows(const Task& task, std::string_view lines, std::string_view labels, std::int64_t limit,
               std::int64_t n_shots, TaskData& data) {
  const bool labelled = task.labels().has_value();
  const auto wanted_shots = static_cast<std::size_t>(n_shots > 0 ? n_shots + 1 : 0);
  std::int64_t row = 0;
  for (std::int64_t number = 1; !lines.empty(); ++number) {
    const std::string_view line = take_line(lines);
    if (stripped(line).empty()) continue;
    const bool asked = limit == 0 || row < limit;
    ++row;
    if (!asked && data.shots.size() >= wanted_shots) break;
    if (asked) ++data.n_rows;
    const std::string place = data.file + ": line " + std::to_string(number);
    std::string_view label;
    if (labelled) label = stripped(take_line(labels));
    try {
      core::Json json = core::parse_json(line, place);
      if (labelled) {
        if (label.empty() || !json.is_object()) throw FormatError(place, "has no line in the file of labels");
        if (!model::is_valid_utf8(label)) throw FormatError(place, "has a label that is no UTF-8 text");
        json["label"] = std::string(label);
      }
      Question question = task.question(std::move(json), place);
      if (data.shots.size() < wanted_shots) data.shots.push_back(question);
      if (asked) data.questions.push_back(std::move(question));
    } catch (const FormatError& error) {
      if (!asked) continue;
      ++data.left_out;
      if (data.faults.size() < kToldFaults) data.faults.emplace_back(error.what());
    }
  }
  if (data.questions.empty())
    throw FormatError(
        data.file, fmt::format("has no row that the task {} can ask ({} rows, {} at fault{})", task.name(), data.n_rows,
                               data.left_out, data.faults.empty() ? "" : ": " + data.faults.front()));
  if (data.shots.size() < wanted_shots)
    throw FormatError(data.file,
                      fmt::format("has {} rows, too few for {} shots before a question", data.shots.size(), n_shots));
}

TaskData read_task_data(const Task& task, const std::filesystem::path& directory, std::int64_t limit,
                        std::int64_t n_shots) {
  TaskData data;
  data.file = find_data_file(directory, task.data(), task.name()).string();
  const std::string lines = core::read_text_file(data.file);
  std::string labels;
  data.sha256 = core::sha256(lines);
  if (task.labels()) {
    labels = core::read_text_file(find_data_file(directory, *task.labels(), task.name()));
    data.sha256 = core::sha256(lines + labels);
  }
  read_rows(task, lines, labels, limit, n_shots, data);
  return data;
}

}  // namespace voronoi::validation
