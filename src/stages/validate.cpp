// The stage that holds the stored layers against the unquantized model.
#include <fmt/format.h>

#include <string>
#include <vector>

#include "comm/agreement.h"
#include "core/error.h"
#include "core/log.h"
#include "run/subject.h"
#include "stages/stage.h"
#include "validation/evaluation.h"
#include "validation/question_evaluation.h"
#include "validation/text_evaluation.h"

namespace voronoi::stages {
namespace {

constexpr const char* kValidate = "validate";

validation::TextOptions text_options(const run::Settings& settings) {
  validation::TextOptions options;
  options.texts = settings.validate_texts;
  options.join = settings.validate_join;
  options.context = settings.validate_context;
  options.windows = settings.validate_windows;
  options.tokenizer = settings.tokenizer;
  options.dtype = settings.dtype;
  options.divergence = true;
  return options;
}

/// The run as its directory has it, the same on every rank.
run::Subject open_stored(const Work& work) {
  run::Subject subject;
  comm::on_root(work.world, [&] { work.run.journal->commit(); });
  comm::together(work.world, [&] { subject = run::open_quantized_run(work.run.paths.root.string()); });
  const std::string content = work.world.broadcast(subject.content, 0);
  comm::together(work.world, [&] {
    if (subject.content != content)
      throw core::StoreError(
          work.run.paths.journal().string() + ": is older on this node than on the first; run the same command again",
          core::ExitCode::node);
  });
  return subject;
}

validation::QuestionProtocol questions(const run::Settings& settings) {
  validation::QuestionProtocol protocol;
  protocol.questions.tasks = run::validate_tasks(settings);
  protocol.questions.directory = settings.task_data;
  protocol.questions.limit = settings.validate_limit;
  protocol.questions.shots = settings.validate_shots;
  protocol.tokenizer = settings.tokenizer;
  protocol.dtype = settings.dtype;
  return protocol;
}

void tell_result(const validation::Evaluation& evaluation) {
  std::string text;
  const std::string* task = nullptr;
  for (const validation::Result& result : evaluation.results) {
    if (task == nullptr || *task != result.task) text += (text.empty() ? "" : "; ") + result.task + ":";
    task = &result.task;
    text += fmt::format(" {} {:.5g}", result.metric, result.value);
    if (result.reference) text += fmt::format(" (unquantized {:.5g})", *result.reference);
  }
  core::log_info("validated: {}", text);
}

void run_validate_stage(Work& work) {
  const Clock::time_point start = Clock::now();
  std::vector<run::Subject> subjects;
  subjects.push_back(open_stored(work));
  const auto doing = [&](const std::string& where) { work.tell(kValidate, where); };
  const auto tell = [&](const run::Subject&, const validation::Evaluation& evaluation) {
    work.run.start->require_current();
    validation::store_evaluation(work.run.paths, evaluation);
    tell_result(evaluation);
  };
  try {
    validation::TextOptions texts = text_options(work.settings);
    texts.doing = doing;
    validation::evaluate_texts(work.world, work.context, subjects, texts, tell);
    validation::QuestionProtocol protocol = questions(work.settings);
    protocol.doing = doing;
    if (!protocol.questions.tasks.empty())
      validation::evaluate_questions(work.world, work.context, subjects, protocol, tell);
  } catch (const core::StopRequested&) {  // on every rank; what is done is kept
    work.stopped = true;
  }
  work.journal_time(kValidate, start);
}

}  // namespace

StageRun begin_validate(Work& work) {
  return [&work](const Window&) { run_validate_stage(work); };
}

}  // namespace voronoi::stages
