#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/placement.h"
#include "comm/agreement.h"
#include "core/error.h"
#include "core/log.h"
#include "core/output.h"
#include "jobs/commands.h"
#include "jobs/eval_options.h"
#include "model/corpus.h"
#include "run/subject.h"
#include "validation/evaluation.h"
#include "validation/question_evaluation.h"
#include "validation/run_report.h"
#include "validation/text_evaluation.h"

namespace voronoi::jobs {
namespace {

void print_questions(const validation::Evaluation& evaluation) {
  const validation::Result& first = evaluation.results.front();
  fmt::print("{}: {}\n  protocol    {}   ({})\n", first.label, first.model,
             validation::protocol_text(evaluation.results.back().protocol), core::format_duration(first.seconds));
  for (const validation::Result& result : evaluation.results) {
    fmt::print("  {:<14} {:<10} {:.4f}", result.task, result.metric, result.value);
    if (result.standard_error) fmt::print(" +- {:.4f}", *result.standard_error);
    fmt::print("   {} questions", result.n);
    if (const auto left_out = result.protocol.value("left_out", std::int64_t{0}); left_out > 0)
      fmt::print(", {} left out", left_out);
    if (result.reference) fmt::print(", unquantized {:.4f}", *result.reference);
    fmt::print("\n");
  }
  if (first.bits_true)
    fmt::print("  bits        {:.4f} true (everything stored is counted), {:.3f} nominal\n", *first.bits_true,
               *first.bits_nominal);
}

void print(const validation::Evaluation& evaluation, bool json) {
  if (json) {
    for (const validation::Result& result : evaluation.results) fmt::print("{}\n", to_json(result).dump());
    return;
  }
  const validation::Result& first = evaluation.results.front();
  if (!first.protocol.contains("text")) return print_questions(evaluation);
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
    if (options.text.texts.empty() && options.tasks.empty())
      problems.emplace_back("--text: is missing; give at least one text file, or --tasks");
    for (std::string& problem : evaluation_problems(options)) problems.push_back(std::move(problem));
    if (!problems.empty()) throw core::ConfigError(problems);
    model::require_files(options.text.texts, world.size());
    context = backend::make_context(options.device, options.threads, world);
    for (const std::string& path : options.models) {
      run::Subject& subject = subjects.emplace_back(run::open_subject(path, options.original));
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
  const auto tell = [&](const run::Subject& subject, const validation::Evaluation& evaluation) {
    print(evaluation, options.json);
    if (subject.run) keep(*subject.run, evaluation, unkept);
    core::flush_output();  // each figure as it comes, also into a file
  };
  comm::stop_in_order(world, [&] {
    validation::evaluate_texts(world, *context, subjects, options.text, tell);
    if (!options.tasks.empty()) validation::evaluate_questions(world, *context, subjects, questions_of(options), tell);
  });
  comm::on_root(world, [&] {
    if (!unkept.empty()) throw core::StoreError(unkept + "; the figures above were not kept in the run");
  });
  return 0;
}

}  // namespace voronoi::jobs
