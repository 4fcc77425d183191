#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "backend/placement.h"
#include "comm/agreement.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "core/option.h"
#include "core/output.h"
#include "jobs/commands.h"
#include "model/precision.h"
#include "run/subject.h"
#include "validation/kept_likelihoods.h"
#include "validation/qa.h"
#include "validation/request_encoder.h"
#include "validation/requests_file.h"

namespace voronoi::jobs {
namespace {

struct ScoreOptions {
  std::string model, original, requests, out, tokenizer;
  std::string device = "auto", dtype = "auto", bos = "auto";
  std::int64_t max_length = 0, batch = 0;
  int threads = 0;
};

CommandSpec score_command(ScoreOptions& o) {
  CommandSpec command;
  command.name = "score";
  command.summary = "Log-likelihoods of continuations, as lm-evaluation-harness asks for them.";
  command.usage = "[mpirun -n RANKS] voronoi score --model MODEL|RUN|CHECKPOINT --requests FILE [--out FILE] [options]";
  command.options = {
      core::as_path(
          core::text_option("model", "PATH", "model directory, GGUF file, run directory or VPTQ checkpoint", o.model)),
      original_option(o.original),
      core::as_path(core::text_option("requests", "FILE", "requests, one JSON object a line", o.requests)),
      core::as_path(
          core::text_option("out", "FILE", "answers, in the order of the requests; stdout unless given", o.out)),
      core::integer_option("max-length", "most tokens of an input, which is cut from the left; 0: the model's own",
                           o.max_length, 0, 1 << 24),
      core::integer_option("batch-packs",
                           "packs of about a thousand tokens that a rank takes through the blocks at a time, and keeps "
                           "then; 0: as many as fit 512 MiB",
                           o.batch, 0, 1 << 20),
      core::choice_option("bos", "BOS before texts; auto: for the family of Gemma alone, as lm-evaluation-harness does",
                          o.bos, {"auto", "always", "never"}),
      core::text_option("tokenizer", "PATH", "tokenizer file or directory, when it is not beside the model",
                        o.tokenizer),
      core::choice_option("device", "where to compute", o.device, {"auto", "cpu", "cuda"}),
      core::choice_option("dtype",
                          "operands of matrix products; auto: f32 on the CPU, the model's 16-bit type on a GPU",
                          o.dtype, model::dtype_choices()),
      core::integer_option("threads", "threads a rank; 0 divides the host's cores by its ranks", o.threads, 0, 1024),
  };
  command.examples =
      "  voronoi score --model SmolLM2-135M --requests requests.jsonl --out answers.jsonl\n"
      "  mpirun -n 2 voronoi score --model runs/2bit --requests requests.jsonl\n"
      "A request is {\"context\": TEXT, \"continuation\": TEXT}, the same as {\"context_ids\": [..], "
      "\"continuation_ids\": [..]},\n"
      "or {\"text\": TEXT}, of which every token is scored, in windows. An answer is {\"loglikelihood\", "
      "\"is_greedy\", "
      "\"tokens\"}.\n"
      "SIGTERM and SIGUSR1 stop it in order (exit code 75); with --out the same command goes on where it was.\n";
  return command;
}

/// What a file asks for: each line's inputs, one after the other.
struct PreparedRequests {
  std::vector<validation::ScoredInput> inputs;
  std::vector<std::size_t> first_input;  ///< by line, and their number at the end
};

PreparedRequests prepare_requests(const ScoreOptions& options, const run::Subject& subject) {
  const std::vector<validation::RequestLine> lines =
      validation::parse_requests(core::read_text_file(options.requests), options.requests);
  const model::ModelConfig& config = subject.source().config();
  const std::int64_t max_length = options.max_length == 0 ? config.max_position : options.max_length;
  std::unique_ptr<model::Tokenizer> tokenizer;
  std::optional<validation::RequestEncoder> encoder;
  if (std::any_of(lines.begin(), lines.end(), [](const validation::RequestLine& line) {
        return line.kind != validation::RequestLine::Kind::ids;
      })) {
    tokenizer = model::open_tokenizer(options.tokenizer.empty() ? subject.tokenizer : options.tokenizer);
    encoder.emplace(*tokenizer, config, *model::bos_rule_from_name(options.bos));
  }
  PreparedRequests prepared;
  for (const validation::RequestLine& line : lines) {
    prepared.first_input.push_back(prepared.inputs.size());
    std::vector<validation::LikelihoodRequest> requests;
    if (line.kind == validation::RequestLine::Kind::ids)
      requests = {line.ids};
    else if (line.kind == validation::RequestLine::Kind::texts)
      requests = {encoder->encode(line.place, line.context, line.continuation)};
    else
      requests = encoder->rolling(line.place, line.continuation, max_length);
    for (const validation::LikelihoodRequest& request : requests)
      prepared.inputs.push_back(validation::scored_input(request, max_length, config.vocab_size));
  }
  prepared.first_input.push_back(prepared.inputs.size());
  return prepared;
}

std::string answers(const PreparedRequests& requests, const std::vector<validation::Likelihood>& likelihoods) {
  std::vector<validation::RequestAnswer> answers;
  for (std::size_t line = 0; line + 1 < requests.first_input.size(); ++line) {
    validation::RequestAnswer answer{{0, true}, 0};
    for (std::size_t i = requests.first_input[line]; i < requests.first_input[line + 1]; ++i) {
      answer.likelihood.log_likelihood += likelihoods[i].log_likelihood;
      answer.likelihood.is_greedy = answer.likelihood.is_greedy && likelihoods[i].is_greedy;
      answer.n_tokens += std::ssize(requests.inputs[i].targets);
    }
    answers.push_back(answer);
  }
  return validation::answers_text(answers);
}

}  // namespace

int score_main(const comm::Communicator& world, const Arguments& arguments) {
  ScoreOptions options;
  const CommandSpec command = score_command(options);
  bool help = false;
  std::unique_ptr<backend::Context> context;
  std::optional<run::Subject> subject;
  PreparedRequests requests;
  comm::together(world, [&] {
    help = parse_or_help(world, command, arguments, true);
    if (help) return;
    std::vector<std::string> problems;
    if (options.model.empty()) problems.emplace_back("--model: is missing; give a model or a run directory");
    if (options.requests.empty()) problems.emplace_back("--requests: is missing; give a file of requests");
    if (!problems.empty()) throw core::ConfigError(problems);
    context = backend::make_context(options.device, options.threads, world);
    subject = run::open_subject(options.model, options.original);
    requests = prepare_requests(options, *subject);
  });
  if (help) return 0;
  comm::on_root(world, [&] {
    run::require_whole_export(options.model);
    const auto truncated = std::count_if(requests.inputs.begin(), requests.inputs.end(),
                                         [](const validation::ScoredInput& input) { return input.truncated; });
    if (truncated > 0)
      core::log_info("{}: {} inputs are longer than the model takes and were cut from the left", options.requests,
                     truncated);
  });
  const core::DType dtype = model::product_dtype(options.dtype, *context, subject->source().config());
  std::vector<std::filesystem::path> directories;
  if (world.rank() == 0 && !options.out.empty())
    directories.push_back(std::filesystem::absolute(options.out).parent_path());
  validation::KeptLikelihoods kept;
  kept.add(std::move(directories),
           validation::likelihood_key(subject->content, requests.inputs, dtype, context->device()),
           std::ssize(requests.inputs));
  validation::LikelihoodProgress progress = kept.progress(world);
  progress.batch = options.batch;
  std::vector<validation::Likelihood> likelihoods;
  comm::stop_in_order(world, [&] {
    likelihoods =
        validation::likelihoods(subject->source(), *context, world, requests.inputs, dtype, std::move(progress));
  });
  comm::on_root(world, [&] {
    const std::string text = answers(requests, likelihoods);
    if (options.out.empty()) {
      fmt::print("{}", text);
      core::flush_output();
    } else {
      core::write_file_shared(options.out, text);
    }
    kept.remove();
  });
  return 0;
}

}  // namespace voronoi::jobs
