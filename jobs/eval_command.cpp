#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "backend/placement.h"
#include "comm/agreement.h"
#include "core/error.h"
#include "core/log.h"
#include "core/option.h"
#include "core/output.h"
#include "jobs/commands.h"
#include "model/precision.h"
#include "run/subject.h"
#include "validation/evaluation.h"
#include "validation/run_report.h"
#include "validation/text_evaluation.h"

namespace voronoi::jobs {
namespace {

struct EvalOptions {
  std::vector<std::string> models;
  validation::TextOptions text;
  std::string reference, device = "auto";
  int threads = 0;
  bool json = false;
};

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
      core::list_option("text", "FILE", "evaluation text", o.text.texts),
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

void print(const validation::Evaluation& evaluation, bool json) {
  if (json) {
    for (const validation::Result& result : evaluation.results) fmt::print("{}\n", to_json(result).dump());
    return;
  }
  const validation::Result& first = evaluation.results.front();
  fmt::print("{}: {}\n  text        {} (SHA-256 {}...)\n  protocol    {}, {} predictions\n", first.label, first.model,
             first.protocol.at("text").get<std::string>(),
             first.protocol.at("text_sha256").get<std::string>().substr(0, 16),
             validation::protocol_text(first.protocol), first.n);
  for (const validation::Result& result : evaluation.results) {
    fmt::print("  {:<11} {:.{}f}", result.metric, result.value, result.metric == validation::kPerplexity ? 4 : 5);
    if (result.standard_error) fmt::print(" +- {:.2g}", *result.standard_error);
    fmt::print("{}\n", &result == &first ? fmt::format("   ({})", core::format_duration(first.seconds)) : "");
  }
  if (first.bits_true)
    fmt::print("  bits        {:.4f} true (everything stored is counted), {:.3f} nominal\n", *first.bits_true,
               *first.bits_nominal);
  if (first.reference)
    fmt::print("  unquantized {:.4f}   (same text and protocol, same program run)\n", *first.reference);
}

/// Into the run, with its report made anew. The figures are printed and may have taken hours: what cannot be kept is an
/// error only behind the last of them. `unkept`: the first such error.
void keep(const store::RunPaths& run, const validation::Evaluation& evaluation, std::string& unkept) {
  if (validation::is_read_only(run)) {
    core::log_info("{}: is read-only, so the figures are printed but not kept there", run.root.string());
    return;
  }
  try {
    validation::store_evaluation(run, evaluation);
    validation::refresh_run_report(run);
  } catch (const core::StoreError& error) {
    if (unkept.empty()) unkept = error.what();
  }
}

}  // namespace

int eval_main(const comm::Communicator& world, const Arguments& arguments) {
  EvalOptions options;
  const CommandSpec command = eval_command(options);
  bool help = false;
  std::unique_ptr<backend::Context> context;
  std::vector<run::Subject> subjects;
  comm::together(world, [&] {
    help = parse_or_help(world, command, arguments, true);
    if (help) return;
    std::vector<std::string> problems;
    if (options.models.empty()) problems.emplace_back("--model: is missing; give a model or a run directory");
    if (options.text.texts.empty()) problems.emplace_back("--text: is missing; give at least one text file");
    if (!problems.empty()) throw core::ConfigError(problems);
    context = backend::make_context(options.device, options.threads, world);
    for (const std::string& path : options.models) {
      run::Subject& subject = subjects.emplace_back(run::open_subject(path));
      if (!options.reference.empty()) run::set_reference(subject, options.reference);
    }
    if (options.text.divergence && std::none_of(subjects.begin(), subjects.end(), [](const run::Subject& subject) {
          return subject.original != nullptr && subject.quantized != nullptr;
        }))
      throw core::ConfigError("--kl: compares with an unquantized model; name one with --reference");
  });
  if (help) return 0;
  comm::on_root(world, [&] {
    for (const std::string& path : options.models) run::require_whole_export(path);
  });

  std::string unkept;
  validation::evaluate_texts(world, *context, subjects, options.text,
                             [&](const run::Subject& subject, const validation::Evaluation& evaluation) {
                               print(evaluation, options.json);
                               if (subject.run) keep(*subject.run, evaluation, unkept);
                               core::flush_output();  // each figure as it comes, also into a file
                             });
  comm::on_root(world, [&] {
    if (!unkept.empty()) throw core::StoreError(unkept + "; the figures above were not kept in the run");
  });
  return 0;
}

}  // namespace voronoi::jobs
