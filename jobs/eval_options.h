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

/// Problems of --tasks and --task-data, which need each other.
std::vector<std::string> task_problems(const EvalOptions& options);
/// What they and the options beside them ask.
validation::QuestionProtocol questions_of(const EvalOptions& options);

}  // namespace voronoi::jobs
