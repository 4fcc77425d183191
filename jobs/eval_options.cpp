#include "jobs/eval_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>

#include "core/option.h"
#include "core/words.h"
#include "model/corpus.h"
#include "model/precision.h"
#include "validation/task.h"

namespace voronoi::jobs {

CommandSpec eval_command(EvalOptions& o) {
  CommandSpec command;
  command.name = "eval";
  command.summary =
      "Perplexity and zero-shot questions of an original model, or of a run or VPTQ checkpoint by decoding its stored "
      "indices; of a run beside the unquantized model, with the KL divergence between the two.";
  command.usage =
      "[mpirun -n RANKS] voronoi eval --model MODEL|RUN|CHECKPOINT [--model ...] [--text FILE ...] [--tasks LIST "
      "--task-data DIR] [options]";
  command.options = {
      core::list_option("model", "PATH", "model directory, GGUF file, run directory or VPTQ checkpoint", o.models),
      core::as_path(
          core::list_option("text", "FILE", "evaluation text, gzip or Zstandard taken as it is", o.text.texts)),
      core::text_option("text-names", "LIST",
                        "what the texts are called in tables, by commas, one each: W2,C4 [the files' names]",
                        o.text.names),
      core::text_option("join", "LIST",
                        "how the file becomes one text: auto, raw, wikitext or jsonl; one for all texts, or by commas "
                        "one each; auto: jsonl where its content is JSON documents, else raw",
                        o.text.join),
      core::integer_option("context", "tokens a window", o.text.context, 2, 1 << 24),
      core::integer_option("windows", "at most so many windows from the start; 0 for all", o.text.windows, 0,
                           std::int64_t{1} << 40),
      core::integer_option("batch-windows",
                           "windows, and packs of questions, that a rank takes through the blocks at a time, and keeps "
                           "then; 0: as many as fit 512 MiB",
                           o.text.batch, 0, 1 << 20),
      core::text_option("tasks", "LIST",
                        "questions, by commas: " + fmt::format("{}", fmt::join(validation::built_in_tasks(), ", ")) +
                            ", or files of tasks (.json)",
                        o.tasks),
      core::as_path(core::text_option("task-data", "DIR", "data of tasks, a folder each", o.task_data)),
      core::integer_option("limit", "rows of a task that are asked, from its first; 0: all",
                           o.questions.questions.limit, 0, std::int64_t{1} << 40),
      core::integer_option("shots", "answered rows of the same file before each question", o.questions.questions.shots,
                           0, 1000),
      core::text_option("reference-cache", "DIR",
                        "keep windows and answers of unquantized models and checkpoints here, for other evaluations "
                        "under the same protocol; without it a run's own directory keeps those of its original",
                        o.text.reference_cache),
      core::switch_option("kl",
                          "KL divergence a token to the unquantized model, its 99th percentile and the share of tokens "
                          "both find most likely, in the same pass",
                          o.text.divergence),
      original_option(o.original),
      core::text_option("reference", "PATH",
                        "unquantized model to compare with; a run knows its own, a checkpoint does not", o.reference),
      core::choice_option("bos",
                          "BOS before texts; auto: the tokenizer's own rule, for questions the family of Gemma alone",
                          o.text.bos, {"auto", "always", "never"}),
      core::text_option("tokenizer", "PATH", "tokenizer file or directory, when it is not beside the model",
                        o.text.tokenizer),
      core::choice_option("device", "where to compute", o.device, {"auto", "cpu", "cuda"}),
      core::choice_option("dtype",
                          "operands of matrix products; auto: f32 on the CPU, the model's 16-bit type on a GPU",
                          o.text.dtype, model::dtype_choices()),
      core::integer_option("threads", "threads a rank; 0 divides the host's cores by its ranks", o.threads, 0, 1024),
      core::switch_option("json", "print one JSON object a line, for each model and text", o.json),
  };
  command.examples =
      "  voronoi eval --model SmolLM2-135M --text wiki.test.raw --join wikitext --windows 16\n"
      "  mpirun -n 2 voronoi eval --model runs/2bit --model runs/gptq --text c4.jsonl --json\n"
      "  voronoi eval --model runs/2bit --tasks arc_easy,piqa,boolq --task-data qa --limit 200\n"
      "Protocol: the text is tokenized once, cut into windows of --context tokens that do not overlap, context - 1 "
      "predictions each;\n"
      "perplexity = exp(mean negative log-likelihood). `tokens` in the output counts predictions. Questions are asked "
      "and "
      "scored as\n"
      "lm-evaluation-harness does.\n"
      "SIGTERM and SIGUSR1 stop it in order (exit code 75); the same command goes on with the windows and "
      "answers that were kept.\n";
  return command;
}

std::vector<std::string> evaluation_problems(const EvalOptions& options) {
  std::vector<std::string> problems = validation::text_problems(options.text);
  if (!options.tasks.empty() && options.task_data.empty())
    problems.emplace_back("--task-data: is missing; give the folder of the tasks' data");
  if (options.tasks.empty() && !options.task_data.empty())
    problems.emplace_back("--tasks: is missing; name tasks of --task-data");
  return problems;
}

validation::QuestionProtocol questions_of(const EvalOptions& options) {
  validation::QuestionProtocol protocol = options.questions;
  protocol.questions.tasks = core::words_of_list(options.tasks);
  protocol.questions.directory = options.task_data;
  protocol.questions.bos = *model::bos_rule_from_name(options.text.bos);
  protocol.tokenizer = options.text.tokenizer;
  protocol.dtype = options.text.dtype;
  protocol.reference_cache = options.text.reference_cache;
  protocol.batch = options.text.batch;
  return protocol;
}

}  // namespace voronoi::jobs
