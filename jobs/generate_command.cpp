#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <span>

#include "backend/placement.h"
#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "core/option.h"
#include "core/output.h"
#include "core/random.h"
#include "jobs/commands.h"
#include "model/corpus.h"
#include "model/generator.h"
#include "model/precision.h"
#include "model/tokenizer.h"
#include "run/subject.h"

namespace voronoi::jobs {
namespace {

using Clock = std::chrono::steady_clock;

struct GenerateOptions {
  std::string model, original, prompt, tokenizer, device = "auto", dtype = "auto";
  std::int64_t max_tokens = 64, seed = 0;
  double temperature = 0;
  int threads = 0;
  bool json = false;
};

CommandSpec generate_command(GenerateOptions& o) {
  CommandSpec command;
  command.name = "generate";
  command.summary =
      "Continues a text with an original model, a run or a VPTQ checkpoint; quantized layers are multiplied straight "
      "from their packed indices. The text goes to stdout, tokens per second to stderr.";
  command.usage = "voronoi generate --model MODEL|RUN|CHECKPOINT --prompt TEXT [options]";
  command.options = {
      core::text_option("model", "PATH", "model directory, GGUF file, run directory or VPTQ checkpoint", o.model),
      original_option(o.original),
      core::text_option("prompt", "TEXT", "what the text begins with", o.prompt),
      core::integer_option("max-tokens", "most tokens to add; fewer when the model ends the text", o.max_tokens, 1,
                           1 << 20),
      core::number_option("temperature",
                          "0: the likeliest token; else tokens are drawn from softmax(logits / temperature)",
                          o.temperature, 0, 100),
      core::integer_option("seed", "of the draws", o.seed, 0, INT64_MAX),
      core::text_option("tokenizer", "PATH", "tokenizer file or directory, when it is not beside the model",
                        o.tokenizer),
      core::choice_option("device", "where to compute", o.device, {"auto", "cpu", "cuda"}),
      core::choice_option("dtype",
                          "operands of products with layers that are not packed; auto: f32 on the CPU, the model's "
                          "16-bit type on a GPU",
                          o.dtype, model::dtype_choices()),
      core::integer_option("threads", "threads; 0: all cores of the host", o.threads, 0, 1024),
      core::switch_option(
          "json", "print one JSON object instead of the text: ids, text, and the logits behind the prompt", o.json),
  };
  command.examples =
      "  voronoi generate --model runs/2bit --prompt 'Once upon a time'\n"
      "  voronoi generate --model SmolLM2-135M --prompt 'The capital of France' --max-tokens 16 --temperature 0.8 "
      "--seed "
      "7\n";
  return command;
}

/// Bytes that are whole characters go out at once; the rest waits for its other half.
class Printer {
 public:
  Printer(const model::Tokenizer& tokenizer, std::vector<std::int32_t> ids, const std::string& prompt)
      : tokenizer_(tokenizer), ids_(std::move(ids)), n_printed_(ids_.size()) {
    fmt::print("{}", prompt);
  }

  void add(std::int32_t id) {
    ids_.push_back(id);
    const std::string text = unprinted();
    if (!whole(text)) return;
    print(text);
    // What a token adds may depend on the one before it, but not on all.
    constexpr std::size_t kContext = 8;
    if (n_printed_ > kContext) ids_.erase(ids_.begin(), ids_.end() - kContext);
    n_printed_ = ids_.size();
  }
  void finish() { print(unprinted() + "\n"); }

 private:
  /// Whether the text does not end inside a UTF-8 character.
  static bool whole(const std::string& text) {
    std::size_t start = text.size();
    while (start > 0 && (static_cast<unsigned char>(text[start - 1]) & 0xC0U) == 0x80U) --start;
    if (start == 0) return true;
    const auto lead = static_cast<unsigned char>(text[start - 1]);
    const std::size_t length = lead >= 0xF0U ? 4 : lead >= 0xE0U ? 3 : lead >= 0xC0U ? 2 : 1;
    return text.size() - start + 1 >= length;
  }

  std::string unprinted() const {
    const std::span ids(ids_);
    const std::size_t n_before = tokenizer_.decode(ids.first(n_printed_)).size();
    const std::string text = tokenizer_.decode(ids);
    return text.size() > n_before ? text.substr(n_before) : "";
  }
  static void print(const std::string& text) {
    fmt::print("{}", text);
    core::flush_output();
  }

  const model::Tokenizer& tokenizer_;
  std::vector<std::int32_t> ids_;  ///< what is not printed, behind some that are
  std::size_t n_printed_;
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

int generate_main(const comm::Communicator& world, const Arguments& arguments) {
  GenerateOptions options;
  const CommandSpec command = generate_command(options);
  if (parse_or_help(world, command, arguments, false)) return 0;
  std::vector<std::string> problems;
  if (options.model.empty()) problems.emplace_back("--model: is missing; give a model, a run or a checkpoint");
  if (options.prompt.empty()) problems.emplace_back("--prompt: is missing; give the beginning of a text");
  if (!problems.empty()) throw core::ConfigError(problems);

  const std::unique_ptr<backend::Context> context = backend::make_context(options.device, options.threads, world);
  run::require_whole_export(options.model);
  const run::Subject subject = run::open_subject(options.model, options.original);
  const model::ModelConfig& config = subject.source().config();
  const auto tokenizer = model::open_tokenizer(options.tokenizer.empty() ? subject.tokenizer : options.tokenizer);
  std::vector<std::int32_t> ids = tokenizer->encode(options.prompt);
  if (const auto bos = tokenizer->automatic_bos()) {
    if (!ids.empty() && ids.front() == *bos)
      core::log_warning("--prompt: begins with BOS, and the tokenizer puts one before it, so that there are two");
    ids.insert(ids.begin(), *bos);
  }
  if (ids.empty()) throw core::ConfigError("--prompt: holds no token");

  const Clock::time_point loading = Clock::now();
  const auto n_prompt = static_cast<std::int64_t>(ids.size());
  model::Generator generator(subject.source(), *context, model::product_dtype(options.dtype, *context, config),
                             n_prompt + options.max_tokens);
  const double load_seconds = seconds_since(loading);
  Printer printer(*tokenizer, ids, options.json ? "" : options.prompt);
  const Clock::time_point reading = Clock::now();
  std::vector<float> logits = generator.feed(ids);
  const std::vector<float> prompt_logits = options.json ? logits : std::vector<float>();
  const double prompt_seconds = seconds_since(reading);
  const core::CounterRandom random(static_cast<std::uint64_t>(options.seed), 0);
  const Clock::time_point writing = Clock::now();
  std::int64_t n_new = 0;
  while (n_new < options.max_tokens) {
    const std::int32_t id =
        model::pick_token(logits, options.temperature, random.uniform(static_cast<std::uint64_t>(n_new)));
    if (std::find(config.end_ids.begin(), config.end_ids.end(), id) != config.end_ids.end()) break;
    ++n_new;
    ids.push_back(id);
    if (!options.json) printer.add(id);
    if (n_new < options.max_tokens) logits = generator.feed(std::vector<std::int32_t>{id});
  }
  if (options.json) {
    const core::Json result{
        {"prompt_tokens", n_prompt}, {"ids", ids}, {"text", tokenizer->decode(ids)}, {"prompt_logits", prompt_logits}};
    fmt::print("{}\n", result.dump(-1, ' ', false, core::Json::error_handler_t::replace));
  } else {
    printer.finish();
  }
  const double write_seconds = seconds_since(writing);
  core::log_info("{}: {} tokens in {:.2f} s, {:.1f} a second; prompt of {} tokens in {:.2f} s; loaded in {:.1f} s",
                 subject.label, n_new, write_seconds, static_cast<double>(n_new) / std::max(write_seconds, 1e-9),
                 n_prompt, prompt_seconds, load_seconds);
  return 0;
}

}  // namespace voronoi::jobs
