#include "jobs/eval_options.h"

#include <cstdint>

#include "core/option.h"
#include "model/precision.h"

namespace voronoi::jobs {

CommandSpec eval_command(EvalOptions& o) {
  CommandSpec command;
  command.name = "eval";
  command.summary =
      "Perplexity of an original model, or of a run or VPTQ checkpoint by decoding its stored indices; of a run beside "
      "the unquantized model, with the KL divergence between the two.";
  command.usage =
      "[mpirun -n RANKS] voronoi eval --model MODEL|RUN|CHECKPOINT [--model ...] --text FILE [--text ...] [options]";
  command.options = {
      core::list_option("model", "PATH", "model directory, GGUF file, run directory or VPTQ checkpoint", o.models),
      core::as_path(
          core::list_option("text", "FILE", "evaluation text, gzip or Zstandard taken as it is", o.text.texts)),
      core::choice_option("join", "how the file becomes one text; auto: jsonl by name, else raw", o.text.join,
                          {"auto", "raw", "wikitext", "jsonl"}),
      core::integer_option("context", "tokens a window", o.text.context, 2, 1 << 24),
      core::integer_option("windows", "at most so many windows from the start; 0 for all", o.text.windows, 0,
                           std::int64_t{1} << 40),
      core::integer_option("batch-windows",
                           "windows a rank takes through the blocks at a time, and keeps then; 0: as many as fit 512 "
                           "MiB",
                           o.text.batch, 0, 1 << 20),
      core::text_option("reference-cache", "DIR",
                        "keep windows of unquantized models and checkpoints here, for other evaluations on the same "
                        "text and protocol; without it a run's own directory keeps those of its original",
                        o.text.reference_cache),
      core::switch_option("kl",
                          "KL divergence a token to the unquantized model, its 99th percentile and the share of tokens "
                          "both find most likely, in the same pass",
                          o.text.divergence),
      core::text_option("reference", "PATH",
                        "unquantized model to compare with; a run knows its own, a checkpoint does not", o.reference),
      core::choice_option("bos", "BOS before the text; auto: the tokenizer's own rule", o.text.bos,
                          {"auto", "always", "never"}),
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
      "Protocol: the text is tokenized once, cut into windows of --context tokens that do not overlap, context - 1 "
      "predictions each;\n"
      "perplexity = exp(mean negative log-likelihood). `tokens` in the output counts predictions.\n"
      "SIGTERM and SIGUSR1 stop it in order (exit code 75); the same command goes on with the windows that were "
      "kept.\n";
  return command;
}

}  // namespace voronoi::jobs
