// Options of `voronoi eval`.
#pragma once

#include <string>
#include <vector>

#include "jobs/command_line.h"
#include "validation/text_evaluation.h"

namespace voronoi::jobs {

struct EvalOptions {
  std::vector<std::string> models;
  validation::TextOptions text;
  std::string reference, device = "auto";
  int threads = 0;
  bool json = false;
};

CommandSpec eval_command(EvalOptions& options);

}  // namespace voronoi::jobs
