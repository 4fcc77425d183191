// Options of `voronoi eval`.
#pragma once

#include <string>
#include <vector>

#include "jobs/command_line.h"
#include "validation/question_evaluation.h"
#include "validation/text_evaluation.h"

namespace voronoi::jobs {

struct EvalOptions {
  std::vector<std::string> models;
  validation::TextOptions text;
  validation::QuestionProtocol questions;
  std::string tasks, task_data, original, reference, device = "auto";
  int threads = 0;
  bool json = false;
};

CommandSpec eval_command(EvalOptions& options);

/// Problems of options that need each other: of texts, their names and joins, of tasks and their data.
std::vector<std::string> evaluation_problems(const EvalOptions& options);
/// What they and the options beside them ask.
validation::QuestionProtocol questions_of(const EvalOptions& options);

}  // namespace voronoi::jobs
