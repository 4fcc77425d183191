// Questions put to models: accuracies of runs and checkpoints, of a run beside the unquantized model's.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backend/device.h"
#include "comm/mpi.h"
#include "run/subject.h"
#include "validation/evaluation.h"
#include "validation/qa.h"

namespace voronoi::validation {

/// How questions are put, as options give it.
struct QuestionProtocol {
  QuestionOptions questions;
  std::string tokenizer;        ///< path; empty: each subject's own
  std::string dtype = "auto";   ///< of model::dtype_choices()
  std::int64_t batch = 0;       ///< packs a rank takes at a time; 0: as many as fit
  std::string reference_cache;  ///< directory for answers of unquantized models; empty: runs keep their original's
  std::function<void(const std::string&)> doing;  ///< called on rank 0 after every block, with where it is
};

/// Collective. As evaluate_texts: `tell` is called on rank 0 with each subject's figures of all tasks. Answers are
/// kept, task by task: asked again, also among other tasks, they are not computed again. Throws as likelihoods() and
/// QuestionSet do.
void evaluate_questions(const comm::Communicator& world, backend::Context& context,
                        const std::vector<run::Subject>& subjects, const QuestionProtocol& protocol,
                        const TellResults& tell);

}  // namespace voronoi::validation
