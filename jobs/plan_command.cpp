#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <utility>

#include "core/error.h"
#include "core/option.h"
#include "core/output.h"
#include "jobs/commands.h"
#include "jobs/quantize_options.h"
#include "planning/bits.h"
#include "planning/model_sizes.h"
#include "planning/plan.h"
#include "run/settings.h"

namespace voronoi::jobs {
namespace {

/// "80GiB", "512 MiB", "80G" (the same as GiB), "1000" (bytes).
core::OptionSpec size_option(std::string name, std::string help, std::int64_t& target) {
  return {std::move(name), "SIZE", std::move(help),
          [&target](const std::string& text) -> std::string {
            double value = 0;
            const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
            std::string unit(end, text.data() + text.size());
            unit.erase(0, unit.find_first_not_of(' ') == std::string::npos ? unit.size() : unit.find_first_not_of(' '));
            static constexpr std::pair<const char*, double> kUnits[] = {
                {"", 1},       {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}, {"K", 0x1p10},
                {"M", 0x1p20}, {"G", 0x1p30},   {"T", 0x1p40},   {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12}};
            const auto* found = std::find_if(std::begin(kUnits), std::end(kUnits),
                                             [&](const auto& known) { return unit == known.first; });
            if (error != std::errc() || found == std::end(kUnits) || !(value > 0) || value * found->second > 0x1p60)
              return "must be a size like 80GiB, not '" + text + "'";
            target = static_cast<std::int64_t>(value * found->second);
            return {};
          },
          false};
}

/// What starting MPI adds to a rank, which `plan` does without: seen with Open MPI 4.1.4 on one host.
constexpr std::int64_t kMpiBytes = 10 << 20;

/// Resident memory of this process: what a rank holds before it opens anything, MPI left out.
std::int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return statm ? resident * ::sysconf(_SC_PAGESIZE) : 0;
}

/// Size of a GGUF file, or of all safetensors files of a directory; 0 where there are none.
std::int64_t weight_file_bytes(const std::string& model) {
  std::error_code error;
  if (std::filesystem::is_regular_file(model, error))
    return model.ends_with(".json") ? 0 : static_cast<std::int64_t>(std::filesystem::file_size(model, error));
  std::int64_t total = 0;
  auto entry = std::filesystem::directory_iterator(model, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    if (std::error_code ignored; entry->path().extension() == ".safetensors" && entry->is_regular_file(ignored))
      total += static_cast<std::int64_t>(entry->file_size(ignored));
  return total;
}

/// Vocabulary with merges as the tokenizers keep them, and the heap's slack: seen with vocabularies of 512 to 49152.
std::int64_t tokenizer_allowance(const model::ModelConfig& config) { return (4 << 20) + 200 * config.vocab_size; }

std::int64_t text_bytes(const std::vector<std::string>& files) {
  std::int64_t total = 0;
  for (const std::string& file : files)
    if (std::error_code error; std::filesystem::is_regular_file(file, error))
      total += static_cast<std::int64_t>(std::filesystem::file_size(file, error));
  return total;
}

bool has_sentencepiece(const run::Settings& options) {
  const std::filesystem::path place(options.tokenizer.empty() ? options.model : options.tokenizer);
  std::error_code error;
  return place.extension() == ".model" || (std::filesystem::exists(place / "tokenizer.model", error) &&
                                           !std::filesystem::exists(place / "tokenizer.json", error));
}

/// Those that the job takes too; a switch that is on comes without value, one that is off not at all.
std::vector<run::GivenOption> options_to_submit(const std::vector<core::OptionSpec>& of_quantize,
                                                const std::vector<run::GivenOption>& given) {
  std::vector<run::GivenOption> options;
  for (run::GivenOption option : given) {
    const auto spec = std::find_if(of_quantize.begin(), of_quantize.end(),
                                   [&](const core::OptionSpec& known) { return known.name == option.name; });
    if (spec == of_quantize.end()) continue;
    const bool is_switch = spec->argument.empty();
    if (is_switch && option.value != "true") continue;
    if (is_switch) option.value.clear();
    options.push_back(std::move(option));
  }
  return options;
}

}  // namespace

int plan_main(const comm::Communicator& world, const Arguments& arguments) {
  planning::PlanRequest request;
  run::Settings& options = request.options;
  bool json = false, probe = false;
  std::string rates_file;
  CommandSpec command = quantize_command(options);
  command.name = "plan";
  command.summary =
      "What a quantization run would store, hold in memory, compute and take, and the sbatch command for it. Reads the "
      "model's configuration only and computes nothing of it.";
  command.usage =
      "voronoi plan --model DIR|config.json|NAME [quantize's options] [--ranks N] [--gpu-memory SIZE] [--probe | "
      "--rates FILE] "
      "[--json]";
  const std::vector<core::OptionSpec> of_quantize = command.options;
  for (core::OptionSpec& option : command.options)
    if (option.name == "model")
      option.help = fmt::format("Hugging Face directory or its config.json, GGUF file, or one of {}",
                                fmt::join(planning::known_model_names(), ", "));
  int ranks = 1, ranks_per_node = 0;
  command.options.push_back(core::integer_option("ranks", "MPI ranks; on GPUs, one a GPU", ranks, 1, 1 << 20));
  command.options.push_back(core::integer_option(
      "ranks-per-node", "ranks of a node; 0: 8 on GPUs, else the cores here by the threads", ranks_per_node, 0, 1024));
  command.options.push_back(
      size_option("gpu-memory", "memory of a GPU: a plan that needs more is refused [80GiB]", request.gpu_memory));
  command.options.push_back(size_option(
      "node-memory", "memory of a node: a plan that needs more is refused [not checked]", request.node_memory));
  command.options.push_back(
      core::switch_option("probe", "time the kernels on this machine for some seconds and predict by that", probe));
  command.options.push_back(
      core::text_option("rates", "FILE", "predict by the rates of this file, which bench_gpu writes", rates_file));
  command.options.push_back(core::switch_option("json", "print JSON", json));
  command.examples =
      "  # Llama-3.1-405B at about 2 bits on 8 nodes of 8 H100\n"
      "  voronoi plan --model llama-3.1-405b --method voronoi --bits 2 --device cuda --ranks 64 --gpu-memory 80GiB\n"
      "  # a model at hand, on this machine's CPU, with rates measured here\n"
      "  voronoi plan --model SmolLM2-135M --config configs/voronoi-2bit.cfg --probe\n"
      "  # for scripts\n"
      "  voronoi plan --model llama-2-7b --vector-length 6 --centroids 4096 --json\n"
      "Exit codes: 0 it fits, 2 usage or a job that cannot fit, 3 bad data, 5 system.\n";
  const ParseResult parsed = parse(command, arguments, true);
  if (help_or_problems(world, command, parsed, true)) return 0;
  request.given = options_to_submit(of_quantize, parsed.given);
  std::vector<std::string> problems;
  if (options.model.empty())
    problems.push_back(fmt::format("--model: is missing; give a directory, a config.json or one of {}",
                                   fmt::join(planning::known_model_names(), ", ")));
  for (std::string& problem : run::check_bits(options)) problems.push_back(std::move(problem));
  for (std::string& problem : quant::check_parameters(options.parameters)) problems.push_back(std::move(problem));
  if (!problems.empty()) throw core::ConfigError(problems);

  request.cuda = options.device == "cuda" || (options.device == "auto" && request.gpu_memory > 0);
  if (probe && request.cuda)
    throw core::ConfigError("--probe: times the kernels of a CPU only; a plan for GPUs goes by the table of rates");
  if (probe && !rates_file.empty()) throw core::ConfigError("--rates: not together with --probe");
  request.program_bytes = resident_bytes() + kMpiBytes;
  request.config = planning::read_model_config(options.model);
  planning::resolve_bits(options, request.config);
  problems = planning::shape_problems(options.parameters, request.config);
  if (!problems.empty()) throw core::ConfigError(problems);
  request.file_bytes = weight_file_bytes(options.model);
  request.tokenizer_bytes = tokenizer_allowance(request.config);
  request.text_bytes = text_bytes(options.calibration_texts);
  request.sentencepiece = has_sentencepiece(options);
  if (request.cuda && request.gpu_memory == 0) request.gpu_memory = std::int64_t{80} << 30;
  request.n_ranks = ranks;
  const int cores = std::max(1, static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)));
  request.threads = options.threads > 0 ? options.threads : request.cuda ? 8 : std::max(1, cores / ranks);
  request.ranks_per_node = ranks_per_node > 0 ? ranks_per_node
                           : request.cuda     ? 8
                                              : std::max(1, cores / request.threads);
  const backend::Device device = request.cuda ? backend::Device::cuda : backend::Device::cpu;
  request.rates = planning::table_rates(device, request.threads);
  if (!rates_file.empty()) request.rates = planning::read_rates(rates_file);
  if (probe) {
    backend::Context context(device, request.threads);
    request.rates = planning::probe_rates(context, options.parameters);
  }
  const planning::Plan plan = planning::make_plan(request);
  fmt::print("{}", json ? planning::plan_json(request, plan).dump() + "\n" : planning::plan_text(request, plan));
  core::flush_output();
  if (!plan.refusals.empty()) throw core::ConfigError(plan.refusals);
  return 0;
}

}  // namespace voronoi::jobs
