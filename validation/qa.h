// Questions of tasks put to a model, scored as lm-evaluation-harness 0.4.9 does.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "validation/likelihood.h"
#include "validation/request_encoder.h"
#include "validation/result.h"
#include "validation/task.h"

namespace voronoi::validation {

struct QuestionOptions {
  std::vector<std::string> tasks;   ///< names or files
  std::filesystem::path directory;  ///< --task-data
  std::int64_t limit = 0;           ///< rows of a task, from its first; 0: all
  /// Examples before each question: the first other rows of the same file that are not at fault, in their order.
  std::int64_t shots = 0;
  std::int64_t max_length = 0;  ///< tokens of an input; 0: the model's own
  model::BosRule bos = model::BosRule::automatic;
};

/// A task's questions as requests: one a choice, from first_request on.
struct AskedTask {
  Task task;
  TaskData data;  ///< questions without those that cannot be asked of this model, which are counted as left out
  std::vector<std::size_t> first_request;  ///< by question
  std::int64_t n_truncated = 0;            ///< requests cut from the left
};

/// Questions of all tasks, tokenized: the same for models with one tokenizer and length.
class QuestionSet {
 public:
  /// Throws ConfigError, FormatError, StoreError: what open_task and read_task_data throw, and a task of which no
  /// question is left.
  QuestionSet(const QuestionOptions& options, const model::Tokenizer& tokenizer, const model::ModelConfig& config);

  const std::vector<AskedTask>& tasks() const { return tasks_; }
  const std::vector<ScoredInput>& inputs() const { return inputs_; }
  /// Those of one of the tasks, which lie together.
  std::span<const ScoredInput> inputs_of(const AskedTask& asked) const;
  /// Tells the rows that were left out, as warnings with file and line. For one rank.
  void warn_of_faults() const;
  /// A row a metric and task, and rows of the task "mean" when there are several and all have acc: acc, and acc_norm
  /// where a task has one. model, method, label, bits and seconds are left to the caller.
  std::vector<Result> results(std::span<const Likelihood> likelihoods, core::DType dtype) const;

 private:
  void add(AskedTask asked, RequestEncoder& encoder, const model::ModelConfig& config);

  QuestionOptions options_;
  std::string bos_;
  std::vector<AskedTask> tasks_;
  std::vector<ScoredInput> inputs_;
};

/// That every task can be asked: before hours of work rather than behind them. Throws as open_task and read_task_data.
void check_tasks(const QuestionOptions& options);

/// The place of the largest log-likelihood of a question's choices, the first of equal ones; divided by `lengths`
/// unless they are empty.
std::int64_t best_choice(std::span<const Likelihood> choices, std::span<const std::int64_t> lengths);

/// All that decides the likelihoods: the weights' `content`, inputs and targets, product type, device and the version
/// of this program.
std::string likelihood_key(const std::string& content, std::span<const ScoredInput> inputs, core::DType dtype,
                           backend::Device device);

/// likelihoods() of a set and their results, `seconds` filled in. Collective.
std::vector<Result> answer_questions(const QuestionSet& questions, const model::WeightSource& source,
                                     backend::Context& context, const comm::Communicator& communicator,
                                     core::DType dtype, LikelihoodProgress progress);

}  // namespace voronoi::validation
