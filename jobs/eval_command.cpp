#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "backend/placement.h"
#include "comm/agreement.h"
#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "core/option.h"
#include "core/output.h"
#include "jobs/commands.h"
#include "model/corpus.h"
#include "model/precision.h"
#include "run/subject.h"
#include "validation/evaluation.h"
#include "validation/kept_windows.h"
#include "validation/perplexity.h"
#include "validation/run_report.h"

namespace voronoi::jobs {
namespace {

struct EvalOptions {
  std::vector<std::string> models, texts;
  std::string join = "auto", tokenizer, device = "auto", dtype = "auto", bos = "auto";
  std::string reference_cache;
  std::int64_t context = 2048, windows = 0, batch = 0;
  int threads = 0;
  bool json = false;
};

CommandSpec eval_command(EvalOptions& o) {
  CommandSpec command;
  command.name = "eval";
  command.summary =
      "Perplexity of an original model, or of a run or VPTQ checkpoint by decoding its stored indices; of a run beside "
      "the "
      "unquantized model.";
  command.usage =
      "[mpirun -n RANKS] voronoi eval --model MODEL|RUN|CHECKPOINT [--model ...] --text FILE [--text ...] [options]";
  command.options = {
      core::list_option("model", "PATH", "model directory, GGUF file, run directory or VPTQ checkpoint", o.models),
      core::list_option("text", "FILE", "evaluation text", o.texts),
      core::choice_option("join", "how the file becomes one text; auto: jsonl by name, else raw", o.join,
                          {"auto", "raw", "wikitext", "jsonl"}),
      core::integer_option("context", "tokens a window", o.context, 2, 1 << 24),
      core::integer_option("windows", "at most so many windows from the start; 0 for all", o.windows, 0,
                           std::int64_t{1} << 40),
      core::integer_option("batch-windows",
                           "windows a rank takes through the blocks at a time, and keeps then; 0: as many as fit 512 "
                           "MiB",
                           o.batch, 0, 1 << 20),
      core::text_option("reference-cache", "DIR",
                        "keep windows of unquantized models and checkpoints here, for other evaluations on the same "
                        "text and protocol; without it a run's own directory keeps those of its original",
                        o.reference_cache),
      core::choice_option("bos", "BOS before the text; auto: the tokenizer's own rule", o.bos,
                          {"auto", "always", "never"}),
      core::text_option("tokenizer", "PATH", "tokenizer file or directory, when it is not beside the model",
                        o.tokenizer),
      core::choice_option("device", "where to compute", o.device, {"auto", "cpu", "cuda"}),
      core::choice_option("dtype",
                          "operands of matrix products; auto: f32 on the CPU, the model's 16-bit type on a GPU",
                          o.dtype, model::dtype_choices()),
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

struct PreparedText {
  model::Text text;
  model::Windows windows;
  std::string bos;
};

PreparedText prepare(const EvalOptions& options, const std::string& path, const run::Subject& subject) {
  const auto join = options.join == "auto" ? model::default_join(path) : *model::join_from_name(options.join);
  PreparedText prepared{model::load_text(path, join), {}, ""};
  const auto tokenizer = model::open_tokenizer(options.tokenizer.empty() ? subject.tokenizer : options.tokenizer);
  const model::BosRule rule = options.bos == "always"  ? model::BosRule::always
                              : options.bos == "never" ? model::BosRule::never
                                                       : model::BosRule::automatic;
  const std::vector<std::int32_t> ids = model::tokenize(*tokenizer, prepared.text, rule);
  const bool added =
      rule == model::BosRule::always || (rule == model::BosRule::automatic && tokenizer->automatic_bos().has_value());
  prepared.bos = added ? fmt::format("{}", ids.front()) : "none";
  prepared.windows = model::leading_windows(ids, options.context, options.windows == 0 ? -1 : options.windows, path);
  return prepared;
}

/// The sums that rank 0 has kept, on every rank.
validation::WindowSums share(const comm::Communicator& world, const validation::KeptWindows& kept) {
  core::Json list = core::Json::array();
  for (const auto& sum : kept.sums()) list.push_back(sum ? core::Json(*sum) : core::Json(nullptr));
  validation::WindowSums sums;
  for (const core::Json& sum : core::parse_json(world.broadcast(list.dump(), 0), "kept windows"))
    sums.push_back(sum.is_null() ? std::nullopt : std::optional(sum.get<double>()));
  return sums;
}

/// `kept`: on rank 0 what is kept on disk, elsewhere empty.
validation::Evaluation evaluate(const model::WeightSource& source, const run::Subject& subject,
                                const PreparedText& prepared, backend::Context& context, core::DType dtype,
                                const comm::Communicator& world, validation::KeptWindows& kept, std::int64_t batch) {
  const auto start = std::chrono::steady_clock::now();
  const double seconds_before = kept.seconds();
  const auto seconds = [&] {
    return seconds_before + std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const validation::PerplexityResult result = validation::perplexity(
      source, context, world, prepared.windows, dtype,
      {share(world, kept), batch, [&](const validation::WindowSums& sums) { kept.keep(sums, seconds()); }});
  validation::Evaluation e;
  e.model = source.path();
  e.text = prepared.text.path;
  e.text_sha256 = prepared.text.sha256;
  e.join = model::join_name(prepared.text.join);
  e.bos = prepared.bos;
  e.dtype = model::product_dtype_name(dtype);
  e.context = prepared.windows.context;
  e.windows = result.windows;
  e.tokens = result.predictions;
  e.nll = result.nll;
  e.perplexity = result.perplexity;
  e.seconds = seconds();
  const bool quantized = &source == subject.quantized.get();
  e.method = quantized ? subject.method : "unquantized";
  e.label = quantized ? subject.label : "unquantized";
  if (quantized) {
    e.bits_true = subject.bits_true;
    e.bits_nominal = subject.bits_nominal;
  }
  return e;
}

void print(const validation::Evaluation& e, bool json) {
  if (json) {
    fmt::print("{}\n", to_json(e).dump());
    return;
  }
  fmt::print("{}\n  text        {} (SHA-256 {}...)\n  protocol    {}\n  perplexity  {:.4f}   (mean nll {:.6f}, {})\n",
             e.label + ": " + e.model, e.text, e.text_sha256.substr(0, 16), validation::protocol_text(e), e.perplexity,
             e.nll, core::format_duration(e.seconds));
  if (e.bits_true)
    fmt::print("  bits        {:.4f} true (everything stored is counted), {:.3f} nominal\n", *e.bits_true,
               *e.bits_nominal);
  if (e.reference_perplexity)
    fmt::print("  unquantized {:.4f}   (same text and protocol, same program run)\n", *e.reference_perplexity);
}

/// Into the run, with its report made anew. The figures are printed and may have taken hours: what cannot be kept is an
/// error only behind the last of them. `unkept`: the first such error.
void keep(const store::RunPaths& run, const validation::Evaluation& evaluation,
          const std::optional<validation::Evaluation>& reference, std::string& unkept) {
  if (validation::is_read_only(run)) {
    core::log_info("{}: is read-only, so the figures are printed but not kept there", run.root.string());
    return;
  }
  try {
    validation::store_evaluation(run, evaluation, reference);
    validation::refresh_run_report(run);
  } catch (const core::StoreError& error) {
    if (unkept.empty()) unkept = error.what();
  }
}

/// Where rank 0 keeps windows of the subjects' originals: every run's own directory, so that a run evaluated alone
/// later finds them, and the cache.
std::vector<std::filesystem::path> reference_directories(const EvalOptions& options,
                                                         const std::vector<run::Subject>& subjects,
                                                         const std::string& fingerprint) {
  std::vector<std::filesystem::path> directories;
  if (!options.reference_cache.empty()) directories.emplace_back(options.reference_cache);
  for (const run::Subject& subject : subjects)
    if (subject.run && !validation::is_read_only(*subject.run) && subject.original->fingerprint() == fingerprint)
      directories.push_back(subject.run->evaluations());
  return directories;
}

/// Of quantized weights, while the command is under way.
std::vector<std::filesystem::path> own_directories(const EvalOptions& options, const run::Subject& subject) {
  if (subject.run && !validation::is_read_only(*subject.run)) return {subject.run->evaluations()};
  if (options.reference_cache.empty()) return {};
  return {options.reference_cache};
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
    if (options.texts.empty()) problems.emplace_back("--text: is missing; give at least one text file");
    if (!problems.empty()) throw core::ConfigError(problems);
    context = backend::make_context(options.device, options.threads, world);
    for (const std::string& path : options.models) subjects.push_back(run::open_subject(path));
  });
  if (help) return 0;
  comm::on_root(world, [&] {
    for (const std::string& path : options.models) run::require_whole_export(path);
  });

  const auto open_kept = [&](std::vector<std::filesystem::path> directories, const std::string& key,
                             std::int64_t n_windows) {
    if (world.rank() != 0) directories.clear();
    return validation::KeptWindows(std::move(directories), key, n_windows);
  };
  std::vector<validation::KeptWindows> own;  // of quantized weights
  std::string unkept;
  for (const std::string& path : options.texts) {
    std::map<std::string, validation::Evaluation> references;  // by window_key()
    for (const run::Subject& subject : subjects) {
      PreparedText prepared;
      comm::together(world, [&] { prepared = prepare(options, path, subject); });
      const model::WeightSource& base = subject.original ? *subject.original : *subject.quantized;
      const core::DType dtype = model::product_dtype(options.dtype, *context, base.config());
      std::optional<validation::Evaluation> reference;
      if (subject.original) {
        const std::string fingerprint = subject.original->fingerprint();
        const std::string key = validation::window_key(fingerprint, prepared.windows, dtype, context->device());
        if (!references.contains(key)) {
          auto kept = open_kept(reference_directories(options, subjects, fingerprint), key, prepared.windows.count);
          references[key] = evaluate(*subject.original, subject, prepared, *context, dtype, world, kept, options.batch);
        }
        reference = references[key];
      }
      validation::Evaluation result;
      if (subject.quantized) {
        own.push_back(open_kept(own_directories(options, subject),
                                validation::window_key(subject.content, prepared.windows, dtype, context->device()),
                                prepared.windows.count));
        result = evaluate(*subject.quantized, subject, prepared, *context, dtype, world, own.back(), options.batch);
      } else {
        result = *reference;
      }
      if (subject.quantized && reference) result.reference_perplexity = reference->perplexity;
      comm::on_root(world, [&] {
        print(result, options.json);
        if (subject.run) keep(*subject.run, result, reference, unkept);
        core::flush_output();  // each figure as it comes, also into a file
      });
    }
  }
  // Their figures are told and stored; asked for again, they are computed again.
  for (const validation::KeptWindows& kept : own) kept.remove();
  comm::on_root(world, [&] {
    if (!unkept.empty()) throw core::StoreError(unkept + "; the figures above were not kept in the run");
  });
  return 0;
}

}  // namespace voronoi::jobs
