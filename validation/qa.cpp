#include "validation/qa.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/version.h"
#include "model/precision.h"

namespace voronoi::validation {
namespace {

/// The examples before a question: the first `n` of `shots` that are other rows.
std::string examples(const std::vector<Question>& shots, std::int64_t n, const std::string& place) {
  std::string text;
  for (const Question& shot : shots) {
    if (n == 0) break;
    if (shot.place == place) continue;
    const auto gold = static_cast<std::size_t>(shot.gold);
    text += shot.contexts[gold] + shot.continuations[gold] + "\n\n";
    --n;
  }
  return text;
}

/// The metric of one question.
double score_of(TaskMetric metric, const Question& question, std::span<const Likelihood> choices, bool has_choices) {
  if (metric == TaskMetric::perplexity) return choices.front().log_likelihood;
  if (!has_choices) return choices.front().is_greedy ? 1 : 0;
  const bool by_length = metric == TaskMetric::acc_norm;
  const std::int64_t best = best_choice(choices, by_length ? question.lengths : std::span<const std::int64_t>());
  return best == question.gold ? 1 : 0;
}

const Result* find_result(std::span<const Result> results, const std::string& task, std::string_view metric) {
  const auto found = std::find_if(results.begin(), results.end(),
                                  [&](const Result& r) { return r.task == task && r.metric == metric; });
  return found == results.end() ? nullptr : &*found;
}

}  // namespace

void check_tasks(const QuestionOptions& options) {
  for (const std::string& task : options.tasks)
    read_task_data(open_task(task), options.directory, options.limit, options.shots);
}

std::int64_t best_choice(std::span<const Likelihood> choices, std::span<const std::int64_t> lengths) {
  const auto value = [&](std::size_t i) {
    return lengths.empty() ? choices[i].log_likelihood : choices[i].log_likelihood / static_cast<double>(lengths[i]);
  };
  std::size_t best = 0;
  for (std::size_t i = 1; i < choices.size(); ++i)
    if (value(i) > value(best)) best = i;
  return static_cast<std::int64_t>(best);
}

QuestionSet::QuestionSet(const QuestionOptions& options, const model::Tokenizer& tokenizer,
                         const model::ModelConfig& config)
    : options_(options) {
  if (options_.max_length == 0) options_.max_length = config.max_position;
  RequestEncoder encoder(tokenizer, config, options.bos);
  bos_ = encoder.bos();
  for (const std::string& name : options.tasks) {
    AskedTask asked{open_task(name), {}, {}, 0};
    for (const AskedTask& other : tasks_)
      if (other.task.name() == asked.task.name())
        throw core::ConfigError("--tasks: " + asked.task.name() + " is there twice");
    asked.data = read_task_data(asked.task, options.directory, options.limit, options.shots);
    add(std::move(asked), encoder, config);
  }
}

void QuestionSet::add(AskedTask asked, RequestEncoder& encoder, const model::ModelConfig& config) {
  TaskData& data = asked.data;
  std::vector<Question> kept;
  for (Question& question : data.questions) {
    const std::string before = examples(data.shots, options_.shots, question.place);
    std::vector<ScoredInput> inputs;
    try {
      for (std::size_t i = 0; i < question.contexts.size(); ++i)
        inputs.push_back(
            scored_input(encoder.encode(question.place, before + question.contexts[i], question.continuations[i]),
                         options_.max_length, config.vocab_size));
    } catch (const core::FormatError& error) {
      ++data.left_out;
      if (data.faults.size() < kToldFaults) data.faults.emplace_back(error.what());
      continue;
    }
    asked.first_request.push_back(inputs_.size());
    for (ScoredInput& input : inputs) {
      if (input.truncated) ++asked.n_truncated;
      inputs_.push_back(std::move(input));
    }
    kept.push_back(std::move(question));
  }
  if (kept.empty())
    throw core::FormatError(data.file,
                            fmt::format("has no row that the task {} can ask of this model; the first fault: {}",
                                        asked.task.name(), data.faults.front()));
  data.questions = std::move(kept);
  tasks_.push_back(std::move(asked));
}

std::span<const ScoredInput> QuestionSet::inputs_of(const AskedTask& asked) const {
  const std::size_t first = asked.first_request.front(),
                    last = asked.first_request.back() + asked.data.questions.back().contexts.size();
  return std::span(inputs_).subspan(first, last - first);
}

void QuestionSet::warn_of_faults() const {
  for (const AskedTask& asked : tasks_) {
    for (const std::string& fault : asked.data.faults) core::log_warning("{}; the row is left out", fault);
    if (const std::int64_t more = asked.data.left_out - std::ssize(asked.data.faults); more > 0)
      core::log_warning("{}: {} more rows are at fault and left out", asked.data.file, more);
  }
}

std::vector<Result> QuestionSet::results(std::span<const Likelihood> likelihoods, core::DType dtype) const {
  std::vector<Result> results;
  const core::Json common{{"limit", options_.limit == 0 ? core::Json(nullptr) : core::Json(options_.limit)},
                          {"shots", options_.shots},
                          {"bos", bos_},
                          {"max_length", options_.max_length},
                          {"dtype", model::product_dtype_name(dtype)}};
  for (const AskedTask& asked : tasks_) {
    const std::vector<Question>& questions = asked.data.questions;
    core::Json protocol{{"data", asked.data.file}, {"data_sha256", asked.data.sha256}};
    protocol.update(common);
    protocol["left_out"] = asked.data.left_out;
    protocol["truncated"] = asked.n_truncated;
    for (const TaskMetric metric : asked.task.metrics()) {
      std::vector<double> scores;
      for (std::size_t i = 0; i < questions.size(); ++i)
        scores.push_back(score_of(metric, questions[i],
                                  likelihoods.subspan(asked.first_request[i], questions[i].contexts.size()),
                                  asked.task.has_choices()));
      Result result;
      result.task = asked.task.name();
      result.metric = task_metric_name(metric);
      result.value = std::accumulate(scores.begin(), scores.end(), 0.0) / static_cast<double>(scores.size());
      result.standard_error = standard_error(scores);
      if (metric == TaskMetric::perplexity) {  // to first order
        result.value = std::exp(-result.value);
        if (result.standard_error) *result.standard_error *= result.value;
      }
      result.n = std::ssize(scores);
      result.protocol = protocol;
      results.push_back(std::move(result));
    }
  }
  if (tasks_.size() < 2) return results;

  core::Json names = core::Json::array();
  for (const AskedTask& asked : tasks_) names.push_back(asked.task.name());
  core::Json protocol{{"tasks", std::move(names)}};
  protocol.update(common);
  const std::vector<Result> rows = results;
  for (const std::string metric : {"acc", "acc_norm"}) {
    Result mean;
    mean.task = kMeanOfTasks;
    mean.metric = metric;
    mean.protocol = protocol;
    double variance = 0;
    bool any = false, all = true, all_errors = true;  // of the tasks
    for (const AskedTask& asked : tasks_) {
      const Result* row = find_result(rows, asked.task.name(), metric);
      any = any || row != nullptr;
      if (row == nullptr) row = find_result(rows, asked.task.name(), "acc");
      all = all && row != nullptr;
      if (row == nullptr) continue;
      mean.value += row->value / static_cast<double>(tasks_.size());
      mean.n += row->n;
      variance += std::pow(row->standard_error.value_or(0), 2);
      all_errors = all_errors && row->standard_error.has_value();
    }
    if (all_errors) mean.standard_error = std::sqrt(variance) / static_cast<double>(tasks_.size());
    if (any && all) results.push_back(std::move(mean));
  }
  return results;
}

std::string likelihood_key(const std::string& content, std::span<const ScoredInput> inputs, core::DType dtype,
                           backend::Device device) {
  core::Sha256 hash;
  hash.update(content + "\nlikelihoods\n");
  for (const ScoredInput& input : inputs) {
    hash.update(fmt::format("{} {}\n", input.ids.size(), input.targets.size()));
    hash.update(std::as_bytes(std::span(input.ids)));
    hash.update(std::as_bytes(std::span(input.targets)));
  }
  hash.update("\n" + std::string(model::product_dtype_name(dtype)) +
              (device == backend::Device::cuda ? "\ncuda\n" : "\ncpu\n") + core::program_version());
  return hash.hex();
}

std::vector<Result> answer_questions(const QuestionSet& questions, const model::WeightSource& source,
                                     backend::Context& context, const comm::Communicator& communicator,
                                     core::DType dtype, LikelihoodProgress progress) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<Result> results = questions.results(
      likelihoods(source, context, communicator, questions.inputs(), dtype, std::move(progress)), dtype);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (Result& result : results) result.seconds = seconds;
  return results;
}

}  // namespace voronoi::validation
